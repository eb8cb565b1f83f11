"""TensorBoard and wandb, shown each epoch. Neither is imported unless it is used, and neither can stop a fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ensemble.core.files import sha256_text

Row = Mapping[str, Any]


class Watcher(Protocol):
    """One place that shows epochs."""

    def show(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch's values by name."""

    def close(self) -> None:
        """The training is over."""


class Watchers:
    """All those named. One that fails is reported by `warn`, once, and left out from then on."""

    def __init__(
        self, names: Sequence[str], folder: Path, about: Mapping[str, Any], config: Row, warn: Callable[[str], None]
    ) -> None:
        """`about` holds run, dataset and identity; the fold's `folder` names the sub-run."""
        self._warn = warn
        self._open: dict[str, Watcher] = {}
        for name in names:
            self._try(name, lambda name=name: self._open.update({name: _KINDS[name](folder, about, config)}))  # type: ignore[misc]

    def show(self, row: Row) -> None:
        """A row of the history."""
        groups = {"lr": "train/lr", "train_loss": "train/loss"}
        values = {
            groups.get(name) or ("inner/" + name[6:] if name.startswith("inner_") else "validation/" + name): value
            for name, value in row.items()
            if name != "epoch" and value is not None
        }
        for name, watcher in list(self._open.items()):  # a copy: one that fails is taken out
            self._try(name, lambda watcher=watcher: watcher.show(row["epoch"], values))  # type: ignore[misc]

    def close(self) -> None:
        """Close all of them."""
        for name, watcher in list(self._open.items()):
            self._try(name, watcher.close)
        self._open.clear()

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # third parties raise anything, and a training must not be lost for a picture of it
            self._open.pop(name, None)
            self._warn(f"{name}: {type(error).__name__}: {error}; training goes on without it")


class _TensorBoard:
    """Event files in the fold's folder: `tensorboard --logdir outputs` shows runs, and folds below them."""

    def __init__(self, folder: Path, about: Mapping[str, Any], config: Row) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()  # of an attempt that was stopped: all its epochs are shown again
        self._writer = SummaryWriter(str(folder))

    def show(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()  # so that an epoch shows at once

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A wandb run for each fold, grouped by the run's name; a fold that goes on continues its wandb run."""

    def __init__(self, folder: Path, about: Mapping[str, Any], config: Row) -> None:
        import wandb

        self._run = wandb.init(
            project=str(about["dataset"]),
            group=str(about["run"]),
            name=f"{about['run']}/{folder.name}",
            id=sha256_text(f"{about['identity']}/{about['run']}/{folder.name}")[:16],
            resume="allow",  # with the same id: a fold that goes on adds to its curves
            config=dict(config),
            dir=str(folder),
        )

    def show(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[Path, Mapping[str, Any], Row], Watcher]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
