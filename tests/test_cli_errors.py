"""Errors on the command line: one line and status 2 for what a user can mend, a traceback for
faults of the program.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jaxoff
from jaxoff import errors, registry
from jaxoff.cli import main
from jaxoff.data import worlds
from jaxoff.data.dataset import DatasetTooLarge, InvalidEpisodes
from jaxoff.data.disk import InvalidDataset
from jaxoff.data.fetch import FetchError
from jaxoff.data.pools import InvalidPool
from jaxoff.envs.mamujoco import mabrax
from jaxoff.envs.mpe.prey import InvalidPrey
from jaxoff.names import UnknownName

ROOT = Path(__file__).parent.parent
COMMAND = ["train", "bc", "matrix/xor/b"]
# Every class of errors that a user can mend, and the built-in one that it also is.
KINDS = {
    DatasetTooLarge: ValueError,
    FetchError: RuntimeError,
    InvalidDataset: ValueError,
    InvalidEpisodes: ValueError,
    InvalidPool: ValueError,
    InvalidPrey: ValueError,
    UnknownName: ValueError,
    errors.AlreadyThere: FileExistsError,
    errors.BrokenResult: ValueError,
    errors.InvalidFile: ValueError,
    errors.InvalidSetting: ValueError,
    errors.MissingProgram: RuntimeError,
    errors.NotWritten: OSError,
    errors.WrongType: TypeError,
}


@pytest.fixture
def failing(monkeypatch):
    """Make the first call of `jaxoff train` raise an error."""

    def make(error: BaseException) -> None:
        def fail(*_):
            raise error

        monkeypatch.setattr(registry, "form_for", fail)

    return make


def error_of(args: list[str], capsys) -> str:
    """What a command that a user can mend prints."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.startswith("jaxoff: error: ") and text.count("\n") == 1
    return text.removeprefix("jaxoff: error: ").removesuffix("\n")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_a_users_error_is_one_line(kind, failing, capsys):
    assert issubclass(kind, jaxoff.JaxoffError) and issubclass(kind, KINDS[kind])
    failing(kind("field 'lr': expected a number"))
    assert error_of(COMMAND, capsys) == "field 'lr': expected a number"


@pytest.mark.parametrize("kind", [FileNotFoundError, FileExistsError, PermissionError, OSError])
def test_an_error_of_the_operating_system_is_one_line(kind, failing, capsys):
    failing(kind("results: expected a folder"))
    assert error_of(COMMAND, capsys) == "results: expected a folder"


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ValueError, TypeError, IndexError])
def test_a_fault_of_the_program_keeps_its_traceback(kind, failing, capsys):
    failing(kind("axis"))
    with pytest.raises(kind, match="axis"):
        main(COMMAND)
    assert not capsys.readouterr().err


def test_debug_keeps_every_traceback(failing):
    failing(errors.InvalidSetting("field 'lr'"))
    with pytest.raises(errors.InvalidSetting):
        main(["--debug", *COMMAND])


NO_POOL = ("nosuch/3m", "grid/bridge", "matrix/xor", "maze/umaze", "smax", "smax/3m/medium")


@pytest.mark.parametrize(
    "command",
    [
        "evaluate nowhere",
        "play nowhere",
        "report nowhere",
        "settings nonsense matrix/xor/b",
        "data make matrix/xor/nonsense --out x",
        "data inspect nowhere",
        "data combine nowhere --out x",
    ],
)
def test_debug_keeps_the_traceback_of_every_command(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((jaxoff.JaxoffError, OSError)):
        main(["--debug", *command.split()])
    error_of(command.split(), capsys)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("evaluate .", "jaxoff.training.restore.restore"),
        ("play .", "jaxoff.training.restore.restore"),
        ("report .", "jaxoff.report.report"),
        ("data make matrix/xor/b --out x", "jaxoff.registry.make_data"),
    ],
)
def test_a_fault_of_the_program_is_a_traceback_in_every_command(
    command, place, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise KeyError("axis")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, fail)
    with pytest.raises(KeyError, match="axis"):
        main(command.split())


def test_a_figure_that_fails_after_training_shows_why(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise KeyError("axis")

    monkeypatch.setattr("jaxoff.report.figures.curves", fail)
    small = ["--seeds", "1", "--steps", "2", "--evaluations", "1", "--eval-episodes", "2"]
    main([*COMMAND, *small, "--set", "hidden=4", "--set", "batch_size=8", "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert "Traceback" in error and "curves: not drawn: KeyError('axis')" in error
    assert (tmp_path / "final.json").exists()


@pytest.mark.parametrize(
    "command",
    [
        "train bc matrix/xor/b --results file",
        "train bc matrix/xor/b --out file",
        "train bc matrix/xor/b --out file/job",
        "report file",
        "evaluate file",
        "play file",
    ],
)
def test_a_file_where_a_folder_is_wanted_is_named(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert "expected a folder, but file is a file" in error_of(command.split(), capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train nonsense matrix/xor/b", "unknown method 'nonsense'"),
        ("train bc nosuch/xor/b", "unknown task family 'nosuch'"),
        ("train bc smax/3m/nonsense", "unknown quality 'nonsense'"),
        ("train bc smax/3m/mix=[r]", "expected 3 agents in [r], found 1"),
        ("train bc matrix/xor/b --set lr=fast", "Config.lr: expected float, found 'fast'"),
        ("train bc matrix/xor/b --data-seed -1", "field 'data_seed': expected a whole number"),
        ("train qmix matrix/xor/b --set recurrent=true --set window=0", "field 'window'"),
        ("data make matrix/xor/b --seed -1 --out x", "field 'seed': expected 0 to"),
        ("data make matrix/xor/b --episodes 0 --out x", "episodes: expected at least 2, found 0"),
        ("data split poly/sign/uniform --seed -1 --out x", "field 'seed': expected 0 to"),
        ("data split poly/sign/uniform --share 1 --out x", "field 'share': expected a number"),
        ("data subsample poly/sign/uniform --steps 0 --out x", "field 'steps': expected at least"),
        ("data credit poly/sign/uniform --steps 0", "field 'steps': expected at least 1, found 0"),
        *(
            (f"data pool {name}", "families mpe, smax, smax-x, mamujoco, mabrax")
            for name in NO_POOL
        ),
        ("data pool smax/3mm", "unknown scenario of smax '3mm'; nearest: 3m"),
        ("data prey spread --out x.npz", "unknown world 'spread'; known: tag, world"),
        ("data prey tag --rounds 0 --out x.npz", "field 'rounds': expected at least 1, found 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(args.split(), capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"{}"])
@pytest.mark.parametrize("command", ["play", "evaluate"])
def test_a_damaged_record_of_a_job_is_named(command, content, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert f"{tmp_path / 'config.json'}: " in error_of([command, str(tmp_path)], capsys)


def test_a_damaged_checkpoint_is_named(capsys, tmp_path):
    small = ["--seeds", "1", "--steps", "2", "--evaluations", "1", "--eval-episodes", "2"]
    main([*COMMAND, *small, "--set", "hidden=4", "--set", "batch_size=8", "--out", str(tmp_path)])
    capsys.readouterr()
    for path in (tmp_path / "checkpoint").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x")
    assert str(tmp_path / "checkpoint") in error_of(["play", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    ("name", "kind"), [("brax", errors.MissingProgram), ("jaxoff.x", ModuleNotFoundError)]
)
def test_a_simulator_that_is_not_installed_is_named(name, kind, monkeypatch):
    def fail(*_):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(mabrax, "make_mabrax", fail)
    with pytest.raises(kind, match=name):
        worlds.WORLDS["mabrax"]()["ant-2x4"].env()


def test_methods_refuse_settings_with_errors_that_a_user_can_mend():
    plain = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "baselines").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func) in ("ValueError", "TypeError")
    ]
    assert not plain, plain
