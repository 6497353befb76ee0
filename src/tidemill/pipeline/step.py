"""Steps and pipelines: plain typed functions, and which gives its result to which."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.names import check_name
from tidemill.pipeline.contract import OUT, Contract, element, fits, read_contract, wants_path
from tidemill.pipeline.graph import order
from tidemill.pipeline.values import describe, encode_value


@dataclass(frozen=True, slots=True)
class Output:
    """Another step's result, as an input.

    A parameter annotated ``Path`` gets the step's files, any other its value.

    Args:
        step: the other step's name.
        item: only a part: a file or folder inside the files, or a field of the value. A step
            that takes only a part runs again only if that part changes.
    """

    step: str
    item: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file or folder from outside, as an input; it counts by name and content.

    Args:
        path: where it is; the step gets this path.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Handle:
    """A live object that a step works through, as an input; it never counts as a change.

    For what does not decide the result: a home, settings, a client. A step with a timeout runs
    in a process of its own, so that its handles must survive pickling.

    Args:
        value: the object.
    """

    value: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a plain typed function, whose result is kept.

    The function's return value is stored by its annotation; a parameter ``out: Path`` gets a
    fresh folder, whose files are stored too.

    Args:
        name: unique in its pipeline.
        function: a plain function with annotations.
        inputs: for each parameter a value, an ``Output``, a ``SourceFile``, a ``Handle``, or a
            list of them.
        retries: how often it is tried again after a failure that another try may mend; what is
            invalid or refused stays so and is not tried again.
        retry_delay_s: the wait before each.
        timeout_s: the step runs in a process of its own, killed when it takes longer.
        cache: whether an earlier result of the same code, parameters and inputs is taken.
    """

    name: str
    function: Callable[..., Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    retries: int = 0
    retry_delay_s: float = 1.0
    timeout_s: float | None = None
    cache: bool = True


@dataclass(frozen=True)
class Pipeline:
    """Steps in their order, checked against each other.

    Args:
        name: what runs of it are listed under.
        steps: in any order.

    Raises:
        InvalidInput: a name is taken twice or not allowed; steps need each other in a circle; an
            input is missing, unknown or of another type than its parameter.

    Example:
        >>> def load(rows: int) -> list[int]:
        ...     return list(range(rows))
        >>> def total(numbers: list[int]) -> int:
        ...     return sum(numbers)
        >>> pipeline = Pipeline(
        ...     "sums",
        ...     [
        ...         Step("total", total, {"numbers": Output("load")}),
        ...         Step("load", load, {"rows": 4}),
        ...     ],
        ... )
        >>> pipeline.order
        ('load', 'total')
    """

    name: str
    steps: Sequence[Step]
    contracts: Mapping[str, Contract] = field(init=False, repr=False, compare=False)
    dependencies: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    order: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name("pipeline", self.name)
        object.__setattr__(self, "steps", tuple(self.steps))
        self._check_steps()
        contracts = {
            one.name: read_contract(one.function, f"step {one.name!r}") for one in self.steps
        }
        for one in self.steps:
            _check_inputs(one, contracts)
        needs = {one.name: _needs(one.inputs.values()) for one in self.steps}
        object.__setattr__(self, "contracts", contracts)
        object.__setattr__(self, "dependencies", needs)
        object.__setattr__(self, "order", order(needs))

    def step(self, name: str) -> Step:
        """Returns the step of that name.

        Raises:
            InvalidInput: there is none.
        """
        for one in self.steps:
            if one.name == name:
                return one
        raise unknown("step", name, [one.name for one in self.steps])

    def _check_steps(self) -> None:
        if not self.steps:
            raise InvalidInput(f"pipeline {self.name!r} has no steps", remedy="Add one.")
        seen: set[str] = set()
        for one in self.steps:
            check_name("step", one.name)
            if one.name in seen:
                raise InvalidInput(
                    f"two steps of pipeline {self.name!r} are named {one.name!r}",
                    remedy="Rename one of them.",
                )
            seen.add(one.name)
            if one.retries < 0 or one.retry_delay_s < 0 or (one.timeout_s or 1) <= 0:
                raise InvalidInput(
                    f"step {one.name!r} has a negative number of retries, delay or timeout",
                    remedy="Use retries >= 0, retry_delay_s >= 0 and timeout_s > 0.",
                )


def unknown(kind: str, name: str, known: Sequence[str]) -> InvalidInput:
    """Returns the error for a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known)) or 'none'}."
    return InvalidInput(f"{kind} {name!r} does not exist", remedy=hint)


def _needs(values: typing.Iterable[Any]) -> frozenset[str]:
    found: set[str] = set()
    for value in values:
        if isinstance(value, Output):
            found.add(value.step)
        elif is_many(value):
            found |= _needs(value)
    return frozenset(found)


def is_many(value: object) -> bool:
    """Tells whether the input is a list of outputs, files or handles, rather than a value."""
    return isinstance(value, list | tuple) and any(
        isinstance(one, Output | SourceFile | Handle) for one in value
    )


def _check_inputs(step: Step, contracts: Mapping[str, Contract]) -> None:
    contract = contracts[step.name]
    for name in step.inputs:
        if name == OUT and contract.writes_files:
            raise InvalidInput(
                f"step {step.name!r}: 'out' is given by the runner", remedy="Leave it out."
            )
        if name not in contract.parameters:
            raise unknown(f"step {step.name!r}: parameter", name, list(contract.parameters))
    missing = sorted(contract.required - set(step.inputs))
    if missing:
        raise InvalidInput(
            f"step {step.name!r}: parameter {missing[0]!r} has no input",
            remedy="Give it one in `inputs`, or a default.",
        )
    for name, value in step.inputs.items():
        subject = f"input {name!r} of step {step.name!r}"
        _check_input(subject, value, contract.parameters[name], contracts)


def _check_input(subject: str, value: Any, wanted: Any, contracts: Mapping[str, Contract]) -> None:
    if isinstance(value, Handle):
        return
    if isinstance(value, Output):
        _check_output(subject, value, wanted, contracts)
    elif isinstance(value, SourceFile):
        if not wants_path(wanted):
            raise InvalidInput(
                f"{subject} is a file, but its parameter is annotated {describe(wanted)}",
                remedy="Annotate it `Path`.",
            )
    elif is_many(value):
        _check_many(subject, value, element(wanted), contracts)
    elif isinstance(value, Path):
        raise InvalidInput(
            f"{subject} is the path {str(value)!r}, whose content would not count",
            remedy="Give SourceFile(path), or a str if only the name matters.",
        )
    elif _holds_input(value):
        raise InvalidInput(
            f"{subject} holds an Output, SourceFile or Handle inside of a value",
            remedy="Give each to a parameter of its own, or give a list of only such.",
        )
    else:
        encode_value(value, wanted, subject)


def _check_many(
    subject: str, values: Sequence[Any], wanted: Any, contracts: Mapping[str, Contract]
) -> None:
    if wanted is None:
        raise InvalidInput(
            f"{subject} is a list, but its parameter is not", remedy="Annotate it `list[...]`."
        )
    for one in values:
        if not isinstance(one, Output | SourceFile | Handle):
            raise InvalidInput(
                f"{subject} mixes values with outputs or files", remedy="Use one kind in a list."
            )
        _check_input(subject, one, wanted, contracts)


def _holds_input(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_input(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_input(one) for one in value)
    return isinstance(value, Output | SourceFile | Handle)


def _check_output(
    subject: str, value: Output, wanted: Any, contracts: Mapping[str, Contract]
) -> None:
    if value.step not in contracts:
        raise unknown(f"{subject}: step", value.step, list(contracts))
    producer = contracts[value.step]
    if wants_path(wanted):
        if not producer.writes_files:
            raise InvalidInput(
                f"{subject} wants files, but step {value.step!r} writes none",
                remedy=f"Give {value.step!r} a parameter `out: Path`, or annotate a value's type.",
            )
    elif producer.returns is NoneType:
        raise InvalidInput(
            f"{subject} wants a value, but step {value.step!r} returns None",
            remedy="Annotate the parameter `Path` for its files, or return a value.",
        )
    elif value.item is None and not fits(producer.returns, wanted):
        raise InvalidInput(
            f"{subject} is annotated {describe(wanted)}, but step {value.step!r} returns "
            f"{describe(producer.returns)}",
            remedy="Change one of the annotations.",
        )
