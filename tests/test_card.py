"""The card that `jaxoff data make` writes beside a dataset, and its Croissant metadata."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

import jaxoff
from jaxoff.cli import main
from jaxoff.data import card, disk
from jaxoff.errors import InvalidSetting

mlcroissant = pytest.importorskip("mlcroissant")
CARD = ("README.md", "card.png", "croissant.json")


def about(folder):
    """What a card tells of the dataset in a folder."""
    episodes, metadata = disk.load(folder)
    return card.about(episodes, disk.read_spec(folder)[0], metadata)


def croissant(folder):
    """The Croissant dataset of a folder; raises where mlcroissant finds an error."""
    return mlcroissant.Dataset(jsonld=folder / "croissant.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder that `jaxoff data make` has written."""
    out = tmp_path_factory.mktemp("data")
    main(["data", "make", "grid/bridge/optimal", "--episodes", "12", "--seed", "3", "--out", out])
    return out / "grid-bridge-optimal.vlt" / "seed-3"


@pytest.fixture(autouse=True, scope="module")
def texts():
    """Command lines of text."""
    with pytest.MonkeyPatch.context() as patch:
        run = main
        patch.setitem(globals(), "main", lambda args: run([str(arg) for arg in args]))
        yield


def test_the_card_tells_what_is_in_the_dataset_and_how_it_was_made(made):
    text = (made / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["pretty_name"] == "grid/bridge/optimal"
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    steps = int(disk.load(made)[0].filled.sum())
    assert f"12 episodes with {steps} steps of a team of 2 agents" in body
    assert "    jaxoff data make grid/bridge/optimal --episodes 12 --seed 3\n" in body
    assert f"| steps | {steps} |" in body and "![Returns, lengths and actions](card.png)" in body
    assert "| `actions` | 1, " in body and "the data hold nothing about persons" in body
    assert Image.open(made / "card.png").width > 500
    assert not list(made.glob("*.svg"))


def test_the_command_of_a_card_makes_the_same_arrays(made, tmp_path):
    command = json.loads((made / "metadata.json").read_text())["command"]
    main([*command.split()[1:], "--out", tmp_path])
    again = tmp_path / "grid-bridge-optimal.vlt" / "seed-3"
    for one, other in zip(disk.load(made)[0], disk.load(again)[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_croissant_has_no_errors_and_no_warnings_and_its_records_are_those_of_the_data(made):
    found = croissant(made)
    issues = found.metadata.ctx.issues
    assert not issues.errors
    # the address of its page, which it has once it is uploaded, is all that is missing
    assert all("citeAs" in text or "url" in text for text in issues.warnings), issues.warnings
    told = disk.load(made)[1]
    statistics = {
        row["statistics/statistic"]: row["statistics/value"] for row in found.records("statistics")
    }
    for name, value in told["statistics"].items():
        assert statistics[name] == pytest.approx(value)
    hashes = {row["arrays/name"]: row["arrays/sha256"] for row in found.records("arrays")}
    assert hashes == told["sha256"]


def test_croissant_tells_the_files_and_the_responsible_use(made):
    told = json.loads((made / "croissant.json").read_text())
    assert told["conformsTo"] == list(card.croissant.FORMATS)
    file, *sets = told["distribution"]
    content = (made / file["contentUrl"]).read_bytes()
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert all(list(made.glob(each["includes"])) for each in sets)
    metadata = croissant(made).metadata
    for name in (
        *("data_collection", "data_collection_type", "data_collection_missing_data"),
        *("data_preprocessing_protocol", "data_biases", "data_limitations", "data_use_cases"),
        *("data_social_impact", "personal_sensitive_information", "data_release_maintenance_plan"),
    ):
        assert getattr(metadata, name), name


def test_a_card_is_replaced_with_its_dataset_and_hides_nothing_from_readers(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "a.vlt" / "seed-0")
    assert set(CARD) <= {path.name for path in copy.iterdir()}
    assert jaxoff.TrainSpec("bc", copy).task_name == "folder:a-seed-0"
    assert len(disk.load(copy)[0].filled) == 12


def test_a_dataset_of_somebodys_own_has_no_license_and_no_command(tmp_path):
    folder = jaxoff.save(jaxoff.make_data("matrix/xor/b"), tmp_path / "mine")
    told = about(folder)
    assert (told.license, told.command, told.has_recipe) == ("", "", False)
    episodes, metadata = disk.load(folder)
    theirs = card.about(episodes, told.spec, metadata | {"recipe": "their-family/game/data"})
    assert theirs.has_recipe and theirs.license == ""  # a recipe of another package
    text = card.texts(folder, told)
    assert "The origin of the episodes is not recorded." in text["README.md"]
    assert "license" not in text["README.md"].split("---\n")[1]
    (folder / "croissant.json").write_text(text["croissant.json"])
    found = json.loads(text["croissant.json"])
    assert (
        "license" not in found and "does not know" in found["rai:personalSensitiveInformation"][0]
    )
    assert not croissant(folder).metadata.ctx.issues.errors


def test_a_part_of_a_dataset_names_what_it_is_a_part_of(made, tmp_path):
    main(["data", "subsample", made, "--episodes", "5", "--out", tmp_path / "part"])
    text = card.texts(tmp_path / "part", about(tmp_path / "part"))["README.md"]
    assert (
        "`jaxoff data subsample` made it of these datasets: grid-bridge-optimal.vlt/seed-3" in text
    )


def test_a_time_limit_of_the_data_that_is_not_that_of_evaluations_is_told(tmp_path):
    main(["data", "make", "grid/bridge/random", "--episodes", "4", "--out", tmp_path])
    text = (tmp_path / "grid-bridge-random.vlt" / "seed-0" / "README.md").read_text()
    longest = int(disk.load(tmp_path / "grid-bridge-random.vlt" / "seed-0")[0].filled.sum(1).max())
    assert f"The time limit is 20 steps in evaluations, and {longest} in these data." in text


def test_a_license_is_a_name():
    assert "license: cc-by-4.0" in card.front_matter("cc-by-4.0")
    with pytest.raises(InvalidSetting, match="field 'license': expected an SPDX name"):
        card.front_matter("a: b\nx")
