"""The words of the prepare command: what they are read as, what is said of wrong ones, help for each."""

import dataclasses
import os

import pytest

from experiments import prepare


def test_command_line_reads_tuples_and_explains_mistakes(tmp_path, capsys):
    parse = prepare._parser("rooms").parse_args
    values = parse(["--source", "rooms", "--out", "x", "--scenes", "3", "--objects", "4,6", "--mix", "walk=.5,free=.5",
                    "--antialias", "false", "--ood", "0"])  # fmt: skip
    assert (values.scenes, values.objects, values.mix, values.antialias, values.ood) == (
        3, (4, 6), "walk=.5,free=.5", False, 0,
    )  # fmt: skip
    out = str(tmp_path / "out")
    for arguments, message in (
        (["--scenes", "0"], "--scenes is 0"),
        (["--scenes", "3", "--form", "prose"], "form is 'prose'"),
        (["--scenes", "3", "--assets", str(tmp_path)], "no catalog.json"),
        (["--scenes", "3", "--validation", "-1"], "--validation is -1"),
        (["--scenes", "3", "--spatial_questions", "-1"], "--spatial_questions is -1"),
        (["--scenes", "3", "--objects", "a,b"], "--objects is ('a', 'b'); expected lowest,highest"),
        (["--scenes", "3", "--mix", "walk,walk"], "mix: 'walk=1' is not a setting's share"),
        (["--scenes", "3", "--mix", "walk,1"], "mix: '1=1' is not a setting's share"),
        (["--scenes", "3", "--categories", "table,chiar"], "categories ['chiar'] unknown"),
        (["--scenes", "3", "--categories", "vase"], "none of them stands on the floor"),
    ):
        assert prepare.main(["--source", "rooms", "--out", out, *arguments]) == 1
        assert message in capsys.readouterr().err
    alone = prepare.SOURCES["rooms"].settings(
        scenes=1, mix=parse(["--source", "rooms", "--out", "x", "--mix", "walk"]).mix
    )
    assert alone.mix == (("walk", 1.0),)
    with pytest.raises(SystemExit):
        prepare.main(["--source", "rooms", "--out", out, "--raw", "x"])
    assert "--raw" in capsys.readouterr().err and not os.path.exists(out)


@pytest.mark.parametrize("source", sorted(prepare.SOURCES))
def test_every_flag_has_a_help_text(source):
    assert all(field.metadata["help"] for field in dataclasses.fields(prepare.SOURCES[source].settings))
    assert "[none]" in prepare._parser(source).format_help()
