# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One type for each way in which things go wrong. All are also `ValueError`, `RuntimeError`, `OSError` or `ImportError`."""


class MissingDependencyError(ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str):
        super().__init__(
            f"{package} is needed for {purpose} and is not installed. Run `pip install hf-slug[{extra}]`."
        )


class NoSuchFolderError(FileNotFoundError):
    """Something that can only be a local path does not exist."""

    def __init__(self, path: str, what: str):
        super().__init__(f"There is no folder {path}. Expected the folder of {what}, or its Hub id (user/name).")


class UnsupportedModelError(ValueError):
    """The model is not one that concepts can be removed from this way."""


class WrongBaseError(ValueError):
    """A patch meets weights other than those it was computed from."""


class DeadLayerError(UnsupportedModelError):
    """A patch changes a layer that the host does not read."""


class ChangedWeightError(RuntimeError):
    """A patched weight was changed by something else, which taking the patch off would wipe out."""


class ConceptTooLongError(ValueError):
    """The text of a concept does not fit into the text tower."""


class GradientError(RuntimeError):
    """A gradient is not finite."""


class EmptyDatasetError(ValueError):
    """A forget or retain set without a single usable pair."""


class MissingColumnError(ValueError):
    """A dataset lacks a column that was asked for."""

    def __init__(self, column: str, found: list[str], *, option: str):
        columns = ", ".join(repr(name) for name in found) or "none"
        super().__init__(
            f"There is no column {column!r}. Columns found: {columns}. Name the right one with `{option}=` "
            f"(`--{option.replace('_', '-')}` on the command line)."
        )


class UnreadableImageError(OSError):
    """An image is missing, truncated or no image at all."""


class TooManyUnreadableError(OSError):
    """So many images of a dataset are unreadable that something is wrong with the dataset, not with the images."""


class UnreadableSourceError(OSError):
    """A dataset does not exist, is damaged, can't be reached, or is in a format that is not read."""


class UnknownNameError(ValueError):
    """An evaluation image shows something that is not among the names."""


class AdapterNameError(ValueError):
    """An adapter name that PEFT could not keep apart from the names of modules and parameters."""


class CorruptPatchError(ValueError):
    """The weights of a patch are damaged, incomplete, or more than the delta that the config announces."""


class HubConnectionError(ConnectionError):
    """The connection to the Hub broke off."""


def describe(error: BaseException) -> str:
    """What is said of an error on the command line; of one of torch's that names no way out, with that."""
    said = str(error)
    first, _, _ = said.partition("\n")
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return f"Memory ran out ({first}). Give a smaller --batch-size, --gradient-checkpointing, one --tower, or --dtype bfloat16."
    return said
