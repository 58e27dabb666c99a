"""What a shell completes: every command and every option of it."""

import subprocess
import sys

import pytest

import qdesk
from qdesk import COMMANDS


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "completion", shell])
        assert qdesk.main() == 0
    return capsys.readouterr().out


def completed(source: str, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    given = " ".join(f"'{word}'" for word in words)
    code = f"{source}\nCOMP_WORDS=({given})\nCOMP_CWORD={len(words) - 1}\n_qdesk\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_bash_completes_commands_their_own_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    source = script("bash", capsys)
    assert completed(source, "qdesk ") == list(COMMANDS)
    assert completed(source, "qdesk tra") == ["train", "tracking"]
    assert completed(source, "qdesk train --learner.g") == ["--learner.gamma"]
    assert completed(source, "qdesk train --steps 5 --see") == ["--seed", "--seeds"]
    assert completed(source, "qdesk models ") == [
        *("--help", "list", "show", "compare", "promote", "rollback", "verify")
    ]
    assert completed(source, "qdesk models promote --ov") == ["--override"]
    assert completed(source, "qdesk kill --re") == ["--reason"]
    assert completed(source, "qdesk nothing --") == []


def test_the_others_know_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("zsh", capsys) == (
        "autoload -U +X bashcompinit && bashcompinit\n" + script("bash", capsys)
    )
    lines = script("fish", capsys).splitlines()
    seen = "'__fish_seen_subcommand_from models; and __fish_seen_subcommand_from promote'"
    assert [line for line in lines if f"-n {seen} -l override -d '" in line]
    for name in COMMANDS:
        assert any(f"-a {name} -d" in line for line in lines)
    assert all(line.replace("\\'", "").count("'") % 2 == 0 for line in lines)


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "completion", "tcsh"])
        with pytest.raises(SystemExit) as left:
            qdesk.main()
    assert left.value.code == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
