"""A machine's results lie under its name."""

import pytest

from benchmarks.machine import Hardware


@pytest.mark.parametrize(
    ("hardware", "slug"),
    [
        (Hardware(cpu="AMD EPYC 9R14", isa="avx512_bf16", threads=2), "amd-epyc-9r14-avx512_bf16-2-threads"),
        (
            Hardware(cpu="Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", isa="amx_bf16", threads=8),
            "intel-xeon-platinum-8488c-amx_bf16-8-threads",
        ),
        (Hardware(cpu="any", isa="avx2", threads=2, gpu="NVIDIA A100-SXM4-80GB"), "nvidia-a100-sxm4-80gb"),
    ],
)
def test_a_name_is_fit_for_a_file(hardware: Hardware, slug: str) -> None:
    assert hardware.slug == slug
