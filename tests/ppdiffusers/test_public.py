"""The package's public names: they resolve, and importing it costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import ppdiffusers


@pytest.mark.parametrize("name", ppdiffusers.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ppdiffusers, name).__name__ == name
    assert name in dir(ppdiffusers)


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(AttributeError, match="UNet2DConditionModel"):
        _ = ppdiffusers.UNet3DConditionModel


def test_importing_the_package_does_not_import_paddle():
    code = "import sys, ppdiffusers; sys.exit('paddle' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
