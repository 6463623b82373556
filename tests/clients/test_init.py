import subprocess
import sys

import pytest

import fedkit_clients

_BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Absent())
"""


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_importing_the_package_does_not_import_torch() -> None:
    assert _python("import sys, fedkit_clients; print('torch' in sys.modules)") == "False\n"


def test_without_torch_the_numpy_trainer_works_and_the_torch_one_says_what_to_install() -> None:
    code = (
        _BLOCK
        + "from fedkit_clients import NumpyWorkload; print('numpy'); from fedkit_clients import TorchWorkload"
    )
    said = _python(code)
    assert said.startswith("numpy\n")
    assert "ConfigError: torch is not installed: pip install 'fedkit[torch]'" in said


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="TorchWorklod"):
        _ = fedkit_clients.TorchWorklod
