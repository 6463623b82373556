"""Update codecs: a delta into bytes and back."""

from fedkit.codecs.advice import demand_matches, notices
from fedkit.codecs.checks import AUTO, require_downlink, require_ring, require_uplink
from fedkit.codecs.codec import Codec, CodecContext
from fedkit.codecs.framed import Framed
from fedkit.codecs.pipeline import Pipeline, build
from fedkit.codecs.rules import TensorRules
from fedkit.codecs.stage import Quantizer, Stage, Transform, Vector

__all__ = [
    "AUTO",
    "Codec",
    "CodecContext",
    "Framed",
    "Pipeline",
    "Quantizer",
    "Stage",
    "TensorRules",
    "Transform",
    "Vector",
    "build",
    "demand_matches",
    "notices",
    "require_downlink",
    "require_ring",
    "require_uplink",
]
