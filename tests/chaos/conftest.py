import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from chaos.installation import Installation, Shape
from chaos.workload import Workload


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return await_


def await_(condition: Callable[[], object], *, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def install() -> Iterator[Callable[..., tuple[Installation, Workload]]]:
    """Start the whole service as a shape says, with departments that can submit; gone after the module's tests."""
    with ExitStack() as stack:

        def started(
            shape: Shape, *, departments: int = 1, seed: int = 1, hears: bool = True
        ) -> tuple[Installation, Workload]:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tsugiki-chaos-")))
            folder.chmod(0o711)
            installation = stack.enter_context(Installation(folder / "installation", shape, seed))
            workload = Workload(installation, departments=departments, seed=seed, hears=hears)
            stack.callback(workload.close)
            workload.prepare()
            return installation, workload

        yield started
