"""What the fields of a struct mean: the texts below them in its source."""

import ast
import inspect
import textwrap

from msgspec import Struct


def field_meanings(struct: type[Struct]) -> dict[str, str]:
    """Of each field, by its name in the source, the text below it on one line; empty where there is none."""
    meanings = dict.fromkeys(struct.__struct_fields__, "")
    for one in reversed(struct.__mro__):
        if one is not Struct and issubclass(one, Struct):
            meanings.update(_own(one))
    return meanings


def _own(struct: type[Struct]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(str(ast.literal_eval(below.value)).split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr)
    }
