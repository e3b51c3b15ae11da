"""The environment that Paddle is started with, chosen from fake processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.environment import Processor, parse_cpuinfo, settings

ROOT = Path(__file__).parents[2]
AMD = Processor("AuthenticAMD", "EPYC", frozenset({"avx2"}), 8)
INTEL = Processor("GenuineIntel", "Xeon", frozenset({"avx2"}), 8)


def cpuinfo(cpus: list[tuple[int, int]], vendor: str = "AuthenticAMD") -> str:
    """/proc/cpuinfo with one block for each (package, core)."""
    return "\n".join(
        f"processor\t: {i}\nvendor_id\t: {vendor}\nmodel name\t: Some CPU: fast\nphysical id\t: {package}\n"
        f"core id\t\t: {core}\nflags\t\t: fpu avx2 avx512f\npower management:\n"
        for i, (package, core) in enumerate(cpus)
    )


def test_two_threads_of_a_core_count_once():
    found = parse_cpuinfo(cpuinfo([(0, 0), (0, 1), (0, 0), (0, 1)]), {0, 1, 2, 3})
    assert (found.cores, found.vendor, found.model) == (2, "AuthenticAMD", "Some CPU: fast")
    assert found.flags == {"fpu", "avx2", "avx512f"}


def test_only_the_cpus_of_this_process_count():
    assert parse_cpuinfo(cpuinfo([(0, 0), (0, 1), (1, 0), (1, 1)]), {1, 2}).cores == 2


def test_without_core_ids_each_logical_cpu_counts():
    arm = "\n".join(f"processor\t: {i}\nFeatures\t: fp asimd\n" for i in range(4))
    found = parse_cpuinfo(arm, {0, 1, 2})
    assert (found.cores, found.flags) == (3, {"fp", "asimd"})


@pytest.mark.parametrize("text", ["", "nonsense", "processor\t: x\n"])
def test_a_strange_cpuinfo_is_one_core(text):
    assert parse_cpuinfo(text, {0}).cores == 1


def test_amd_gets_mkls_fast_path_and_intel_keeps_its_own():
    assert settings(AMD, {})["MKL_DEBUG_CPU_TYPE"] == "5"
    assert "MKL_DEBUG_CPU_TYPE" not in settings(INTEL, {})


def test_amd_without_avx2_is_left_alone():
    assert "MKL_DEBUG_CPU_TYPE" not in settings(Processor("AuthenticAMD", "old", frozenset({"sse4_2"}), 2), {})


def test_threads_are_the_cores():
    assert settings(INTEL, {}) == {"OMP_NUM_THREADS": "8", "FLAGS_paddle_num_threads": "8"}


def test_what_the_user_set_stays():
    assert settings(AMD, {"OMP_NUM_THREADS": "3", "MKL_DEBUG_CPU_TYPE": "4"}) == {"FLAGS_paddle_num_threads": "3"}


def test_our_own_variable_wins():
    given = {"MIXSTUDIO_THREADS": "2", "OMP_NUM_THREADS": "7"}
    assert settings(INTEL, given) == {"OMP_NUM_THREADS": "2", "FLAGS_paddle_num_threads": "2"}


def test_a_second_look_adds_nothing():
    assert settings(AMD, settings(AMD, {})) == {}


@pytest.mark.parametrize("wrong", ["many", "0", "-2", "1.5"])
def test_a_wrong_thread_count_says_what_is_accepted(wrong):
    with pytest.raises(ValueError, match="whole number from 1 up"):
        settings(INTEL, {"MIXSTUDIO_THREADS": wrong})


def test_paddle_starts_with_the_threads_and_says_nothing():
    code = (
        "from app import environment; p = environment.import_paddle(); "
        "print(p.base.core.globals()['FLAGS_paddle_num_threads'])"
    )
    env = {**os.environ, "MIXSTUDIO_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr.strip()) == ("2", "")
