"""Events in words: one line each, for a pipe, and for what stays above the live table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.commands.durations import shown_duration

__all__ = ["event_line", "fold_name"]


def event_line(event: Mapping[str, Any]) -> str | None:
    """The event in words; None for what a line is not worth."""
    label = event.get("label", "")
    fold = f"{label}{fold_name(event)}"
    match event["event"]:
        case "finding":
            return str(event["line"])
        case "preparing":
            return "looking at the machine and the model"
        case "prepared":
            return f"{label.strip()}: {_prepared(event)}" if label else _prepared(event)
        case "scanning" | "decoding":
            verb = "looking at" if event["event"] == "scanning" else "decoding"
            return f"{verb} {event['part']} images: {event['done']} of {event['total']}"
        case "studying":
            return f"{event['run']}: looking at its out-of-fold rows in several ways"
        case "predicting":
            return f"predicting: {event['done']:,} of {event['total']:,} images"
        case "predicted":
            return f"{event['task']}: predicted"
        case "bad-images":
            return _bad_images(event)
        case "queued":
            return _queued(event)
        case "fold-kept":
            return f"{fold}: finished earlier, kept"
        case "fold-started":
            return f"{fold}: started" if event.get("attempt", 1) == 1 else None
        case "resumed":
            return f"{fold}: goes on in epoch {event['epoch']}, after step {event['step']}"
        case "warning":
            return f"{fold}: warning: {event['line']}"
        case "epoch":
            return f"{fold}: {_epoch(event)}"
        case "retried":
            return f"{fold}: its process died ({event['how']}); started again"
        case "restarted":
            return f"{fold}: {event['reason']}; started again"
        case "stopping":
            return f"{fold}: asked to save itself and stop; Ctrl+C again stops at once"
        case "fold-finished":
            return f"{fold}: finished in {event['seconds']:.1f} s"
        case "fold-failed":
            log = f" (log: {event['log']})" if event.get("log") else ""
            return f"{fold}: FAILED: {' '.join(event['error'].split())}{log}"
        case "merged":
            return f"{label}merged all folds"
        case "trial-started":
            values = ", ".join(f"{key}={value}" for key, value in event["values"].items())
            return f"trial {event['number']}: {values}"
        case "trial-finished":
            return f"trial {event['number']}: {event['outcome']}"
        case "rescoring":
            return f"trial {event['number']}, the best: trained again {event['how']}"
    return None


def fold_name(event: Mapping[str, Any]) -> str:
    """`fold 3`, or `fold 1.3` in a later repeat of the plan."""
    return f"fold {event['repeat']}.{event['fold']}" if event.get("repeat") else f"fold {event.get('fold')}"


def _queued(event: Mapping[str, Any]) -> str:
    folds = event["folds"]
    runs = len({fold["run"] for fold in folds})
    of_runs = f" of {runs} runs" if runs > 1 else ""
    at_a_time = f", {min(event['slots'], len(folds))} at a time" if len(folds) > 1 else ""
    return f"{len(folds)} fold{'s' if len(folds) > 1 else ''}{of_runs} to train{at_a_time}"


def _bad_images(event: Mapping[str, Any]) -> str:
    dropped = f"{event['dropped']} training images are left out"
    prior = f"{event['prior']} test rows get the class shares of the training rows, for want of an image"
    said = " and ".join(text for text, count in ((dropped, event["dropped"]), (prior, event["prior"])) if count)
    return f"warning: {said}; run.json lists them"


def _prepared(event: Mapping[str, Any]) -> str:
    """The decisions of a run's start; that weights are missing is worth a warning."""
    weights = event["pretrained_why"] if event["pretrained"] else f"warning: {event['pretrained_why']}"
    if not event["pretrained"] and "recipe asks" in event["pretrained_why"]:
        weights = "from scratch"
    device = f"{event['device']}, {event['precision']}, {event['threads']} thread{'s' if event['threads'] > 1 else ''}"
    return f"{event['parameters']:,} parameters, {weights}, on {device}"


def _epoch(event: Mapping[str, Any]) -> str:
    """What is known of an epoch; what an event does not carry is left out."""
    said = [f"epoch {event['epoch']}/{event['epochs']}"]
    if event.get("loss") is not None:
        said.append(f"loss {event['loss']:.4f}")
    if event.get("value") is not None:
        said.append(f"{event['metric']} {event['value']:.4f}")
    if event.get("images_per_s") is not None:
        said.append(f"{event['images_per_s']:,.0f} images/s")
    if event.get("data_wait_share") is not None:
        said.append(f"{event['data_wait_share']:.0%} waiting for data")
    if event.get("memory_mb") is not None:
        said.append(f"{event['memory_mb']:,.0f} MB")
    if event.get("remaining_s") is not None:
        said.append(f"{shown_duration(event['remaining_s'])} left")
    return ", ".join(said)
