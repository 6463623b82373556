"use strict";
// A pointer or the arrow keys over a plot show the values of the nearest point. Texts from the run go
// in as textContent only.
const make = (tag, kind, text) => {
  const node = document.createElement(tag);
  node.className = kind;
  node.textContent = text;
  return node;
};

const nearest = (xs, at) => {
  let best = -1;
  xs.forEach((x, i) => { if (best < 0 || Math.abs(x - at) < Math.abs(xs[best] - at)) best = i; });
  return best;
};

document.querySelectorAll(".plot").forEach((plot) => {
  const block = plot.querySelector("script");
  let lines = null;
  let shown = [];
  let place = null;
  const clear = () => { shown.forEach((node) => node.remove()); shown = []; };
  const add = (node) => { plot.append(node); shown.push(node); return node; };

  const read = () => {
    const given = JSON.parse(block.textContent);
    return given.map((line) => ({ x: given[0].x, h: given[0].h, ...line })).filter((line) => line.x.length);
  };

  const show = (at) => {
    lines ??= read();
    if (!lines.length) return;
    clear();
    const found = lines.map((line) => ({ line, i: nearest(line.x, at) }));
    const off = ({ line, i }) => Math.abs(line.x[i] - at);
    const first = found.reduce((a, b) => (off(b) < off(a) ? b : a));
    place = first.line.x[first.i];
    const tip = make("div", "tip", "");
    tip.append(make("b", "", first.line.h[first.i]));
    for (const { line, i } of found) {
      if (Math.abs(line.x[i] - place) > 25) continue;
      const row = make("div", "", "");
      const name = make("span", "", line.n);
      if (line.c) name.prepend(make("i", line.c, ""));
      row.append(name, make("span", "", line.t[i]));
      tip.append(row);
      if (line.y && line.y[i] !== null) {
        const spot = add(make("span", "spot " + line.c, ""));
        spot.style.left = line.x[i] / 10 + "%";
        spot.style.top = line.y[i] / 10 + "%";
      }
    }
    add(make("div", "hair", "")).style.left = place / 10 + "%";
    tip.style[place > 500 ? "right" : "left"] = "calc(" + (place > 500 ? 100 - place / 10 : place / 10) + "% + 12px)";
    add(tip);
  };

  const step = (sign) => {
    const xs = lines ? lines.flatMap((line) => line.x).sort((a, b) => a - b) : [];
    const next = place === null ? [] : xs.filter((x) => (x - place) * sign > 0);
    show(next.length ? (sign > 0 ? next[0] : next[next.length - 1]) : place ?? 0);
  };

  const pointed = (event) => {
    const box = plot.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * 1000);
  };
  plot.addEventListener("pointermove", pointed);
  plot.addEventListener("pointerdown", pointed);
  plot.addEventListener("pointerleave", clear);
  plot.addEventListener("blur", clear);
  plot.addEventListener("keydown", (event) => {
    const sign = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (sign) { event.preventDefault(); step(sign); }
  });
});

document.querySelectorAll(".copy").forEach((box) => {
  if (!navigator.clipboard) return;
  const button = make("button", "", "copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(box.querySelector("pre").textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  box.append(button);
});
