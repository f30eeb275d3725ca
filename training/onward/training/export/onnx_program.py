"""Export an encoder as an ONNX program, and as the files of a compiled kernel if one supports the encoder."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from numpy.lib import format as npy
from torch import nn

from onward.bundle.files.manifest import ENCODER_DATA, TABLE, WEIGHTS, KernelInfo
from onward.training.models.encoder import SessionEncoder
from onward.training.models.folded_srgnn import TABLE_NAME, FoldedSRGNN


def write_program(encoder: SessionEncoder, path: Path) -> KernelInfo | None:
    """Export the serving form of `encoder` as an ONNX program with the dynamic dimensions `batch` and `length`.

    Its inputs are items_BL, and users_B if the encoder reads users. Its weights are written beside it. If a compiled
    kernel supports the form, the kernel's files are written there too (the program reads its table from one of them),
    and the kernel's description is returned.
    """
    form = encoder.serving_form()
    return write_form(form, path, takes_users=encoder.users > 0)


def write_form(form: nn.Module, path: Path, *, takes_users: bool) -> KernelInfo | None:
    """Export the module `form` unchanged; see `write_program`."""
    model = _exported(form, takes_users=takes_users)
    if not isinstance(form, FoldedSRGNN):
        onnx_ir.save(model, path, external_data=ENCODER_DATA)
        return None
    info, table_NT, weights = form.kernel()
    np.save(path.parent / TABLE, table_NT)
    np.save(path.parent / WEIGHTS, weights)
    model.graph.initializers[TABLE_NAME].const_value = _as_external(path.parent / TABLE)
    onnx_ir.save(model, path)
    return info


def _exported(form: nn.Module, *, takes_users: bool) -> onnx_ir.Model:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    inputs = {
        "items_BL": (torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), {0: batch, 1: length}),
        "users_B": (torch.tensor([0, 1]), {0: batch}),
    }
    used_inputs = dict(list(inputs.items())[: 2 if takes_users else 1])
    return exported_program(form, used_inputs, "interests_BKD")


def exported_program(
    form: nn.Module, inputs: Mapping[str, tuple[torch.Tensor, dict[int, torch.export.Dim]]], output: str
) -> onnx_ir.Model:
    """Export a module as a program, given an example and the dynamic dimensions of each input."""
    with warnings.catch_warnings(), _errors_only("torch.onnx"):
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        program = torch.onnx.export(
            form,
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(free for _, free in inputs.values()),
            verbose=False,
        )
    assert program is not None  # noqa: S101  # torch's stub allows None for the exporter that is not used here
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces of this machine
    return program.model


def _as_external(path: Path) -> onnx_ir.ExternalTensor:
    """Reference the numbers of an .npy file in place, as external data of a program."""
    with path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        offset = file.tell()
    return onnx_ir.ExternalTensor(
        path.name,
        offset,
        path.stat().st_size - offset,
        onnx_ir.DataType.from_numpy(dtype),
        shape=onnx_ir.Shape(shape),
        name=TABLE_NAME,
        base_dir=path.parent,
    )


@contextmanager
def _errors_only(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
