"""The language model learns the same from both losses, on one device and on a mesh."""

import math

import pytest
from test_examples import as_a_user_runs_it, load  # noqa: F401
from tolerances import same


def test_any_text_comes_back():
    pytest.importorskip("flax")
    example = load("language_model")
    files = example.read_files()
    vocabulary = example.build_vocabulary(files[1:])
    assert len({*vocabulary}) == len(vocabulary) <= example.VOCABULARY
    for text in (files[0], bytes(range(256)) * 2, "ein Wört\t \r\n".encode(), b""):
        assert example.decode(vocabulary, example.encode(vocabulary, text)) == text
    assert len(example.encode(vocabulary, files[0])) < len(files[0]) / 2


def test_both_losses_on_one_device_and_on_meshes(tmp_path, capsys):
    pytest.importorskip("flax")
    example = load("language_model")
    files = example.read_files()[:100]
    example.read_files = lambda: files
    example.VOCABULARY, example.BATCH, example.LENGTH, example.HELD_OUT = 8192, 8, 64, 1000
    one = example.main(3, picture=tmp_path / "one.png")
    meshes = {mesh: example.main(3, mesh, tmp_path / f"{mesh}.png") for mesh in example.MESHES}
    span = math.log(example.VOCABULARY)
    reference = one["dense"]
    assert reference.losses[-1] < reference.losses[0] - 1
    for run in (one["fused"], *(run for runs in meshes.values() for run in runs.values())):
        same(run.losses, reference.losses, span=span)
        same([run.nats], [reference.nats], span=span)
    assert one["fused"].temporaries < one["dense"].temporaries
    for mesh, runs in meshes.items():
        for name, run in runs.items():  # sharded parameters are gathered, and that is most of them here
            assert run.temporaries < one[name].temporaries / (2 if mesh == "tensor" else 1)
    assert all(picture.stat().st_size > 10_000 for picture in tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "nats per token" in printed
    assert "nan" not in printed
