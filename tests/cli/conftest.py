"""Commands that run in the tests' own process."""

import pytest

from support.processes import run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process, which must end well: (stdout, stderr)."""

    def command(*words: object) -> tuple[str, str]:
        code, out, err = run(list(words), monkeypatch, capsys)
        assert code == 0, err
        return out, err

    return command
