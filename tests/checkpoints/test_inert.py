"""Files of trainers are read without the trainers: their objects become stand-ins that do nothing; other code is refused."""

import argparse
import builtins
import collections
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.serialization import get_safe_globals

sys.path.insert(0, str(Path(__file__).parent))  # the layouts are a module beside this file, not a package

from stablesr_layouts import foreign_class, lightning_file

from resdiff.checkpoints import io
from resdiff.checkpoints.inert import Inert
from resdiff.checkpoints.io import CheckpointError, read_shapes, read_state_dict

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def assert_reads(path):
    found = read_state_dict(path)
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)
    assert read_shapes(path)["a.weight"].shape == (2, 3)
    assert not [name for name in sys.modules if name.partition(".")[0] in ("pytorch_lightning", "omegaconf", "ldm")]


def refused(path, match="would run code"):
    for read in (read_state_dict, read_shapes):
        with pytest.raises(CheckpointError, match=match) as caught:
            read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_callbacks_keyed_by_their_class(tmp_path):
    before = set(get_safe_globals())
    assert_reads(lightning_file(tmp_path / "a.ckpt", STATE))
    assert set(get_safe_globals()) == before


def test_tensors_stay_mapped_into_memory(tmp_path, monkeypatch):
    asked = []
    load = torch.load
    monkeypatch.setattr(io.torch, "load", lambda *args, **options: asked.append(options) or load(*args, **options))
    assert_reads(lightning_file(tmp_path / "a.ckpt", STATE))
    assert all(options["mmap"] and options["weights_only"] for options in asked)


def test_configurations_of_nested_objects(tmp_path):
    names = ("omegaconf.dictconfig.DictConfig", "omegaconf.nodes.AnyNode", "omegaconf.base.ContainerMetadata")
    with (
        foreign_class(names[0]) as config_class,
        foreign_class(names[1]) as node_class,
        foreign_class(names[2]) as metadata_class,
    ):
        config, node, metadata = config_class(), node_class(), metadata_class()
        # the shape of what OmegaConf pickles: types as values, a parent that holds its child, defaultdicts
        metadata.__dict__ = {"ref_type": dict, "object_type": list, "resolver_cache": collections.defaultdict(dict)}
        node.__dict__ = {"_val": 5e-5, "_parent": config, "kinds": (int, float, str)}
        config.__dict__ = {"_metadata": metadata, "_content": {"lr": node}}
        path = lightning_file(tmp_path / "a.ckpt", STATE, hyper_parameters=config)
    assert_reads(path)


def test_dictionaries_with_items_of_their_own(tmp_path):
    with foreign_class("pytorch_lightning.utilities.parsing.AttributeDict", dict) as attributes:
        inner = attributes(c=[attributes(d=1)])
        path = lightning_file(tmp_path / "a.ckpt", STATE, hyper_parameters=attributes(a=1, b=inner))
    assert_reads(path)


def test_arguments_and_numbers(tmp_path):
    more = {"args": argparse.Namespace(lr=1, where=argparse.Namespace()), "lr": np.float64(3.5), "best": np.float32(1)}
    assert_reads(lightning_file(tmp_path / "a.ckpt", STATE, **more))


def test_a_state_dict_within_a_trainers_dictionary_is_found(tmp_path):
    with foreign_class("lightning_fabric.utilities.data.AttributeDict", dict) as attributes:
        torch.save(attributes(state_dict=STATE), tmp_path / "a.ckpt")
    assert_reads(tmp_path / "a.ckpt")


def test_a_call_of_a_trainers_function_calls_nothing(tmp_path):
    trace = tmp_path / "trace"
    with foreign_class("ldm.util.instantiate_from_config") as function:
        function.__new__ = lambda cls, *arguments: trace.mkdir()  # what it would do, were it there
        torch.save({"state_dict": STATE, "model": Call(function, str(trace))}, tmp_path / "a.ckpt")
        assert read_state_dict(tmp_path / "a.ckpt").keys() == STATE.keys()
    assert not trace.exists()
    assert_reads(tmp_path / "a.ckpt")


def test_code_of_a_module_that_is_there_does_not_run(tmp_path, monkeypatch):
    (tmp_path / "ldm").mkdir()
    (tmp_path / "ldm" / "__init__.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trace')!r})")
    with foreign_class("ldm.lr_scheduler.LambdaLinearScheduler") as schedule:
        path = lightning_file(tmp_path / "a.ckpt", STATE, schedule=schedule())
    monkeypatch.syspath_prepend(str(tmp_path))
    assert_reads(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, builtins.getattr, builtins.__import__])
def test_code_beside_a_trainers_objects_is_refused_and_does_not_run(tmp_path, function):
    trace = tmp_path / "trace"
    code = f"mkdir '{trace}'" if function is os.system else f"__import__('os').mkdir({str(trace)!r})"
    refused(lightning_file(tmp_path / "a.ckpt", STATE, evil=Call(function, code)))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["lightning_evil.Thing", "ldmx.Thing", "evil.omegaconf.DictConfig"])
def test_objects_of_other_modules_are_refused(tmp_path, name):
    with foreign_class(name) as thing:
        refused(lightning_file(tmp_path / "a.ckpt", STATE, thing=thing()))
    refused(lightning_file(tmp_path / "b.ckpt", STATE, thing=argparse.Action))


def test_the_older_format_is_read_without_foreign_objects_only(tmp_path):
    with foreign_class("pytorch_lightning.Callback") as callback:
        content = {"state_dict": STATE, "callbacks": {callback: 1}}
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "a.ckpt")


def test_stand_ins_keep_nothing():
    thing = Inert(1, 2)
    thing.__setstate__({"a": 1})
    assert vars(thing) == {}
