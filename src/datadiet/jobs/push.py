"""Send the model of a finished run, with its card, to the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datadiet.errors import ArgumentError, DataError, UserError, quoted
from datadiet.store import run_folder
from datadiet.types import Json

_REPO = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}")
_LOGIN = "Log in with: hf auth login, or set HF_TOKEN"


def push(run: Path, repo: str, *, private: bool = False, branch: str | None = None, dry_run: bool = False) -> Json:
    """Upload the model folder of a run: weights, config, tokenizer and the model card; nothing else of the run.

    A repository that is missing is made; files of an earlier upload are replaced in one commit. A verdict of `datadiet
    compare` stands in the card.

    Args:
        run: A run folder, or its `model/`.
        repo: `name` or `owner/name` on the hub.
        private: Make a repository that only its owner sees; one that is there already stays as it is.
        branch: Of the repository; `main` by default.
        dry_run: Check everything that is on this machine, and send nothing.

    Returns:
        `repo`, `url` (None for a dry run), `folder`, and `files` with their sizes in bytes.

    Raises:
        ArgumentError: If the repository has no name that the hub allows, nobody is logged in, or the hub refuses.
        DataError: If the run is unfinished, has no model or no card.
        ConnectionError: If the hub does not answer.
    """
    _check_name(repo)
    folder = _model_folder(run)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    from huggingface_hub import HfApi, get_token

    sent: Json = {"repo": repo, "url": None, "folder": str(folder), "files": files}
    if get_token() is None:
        raise ArgumentError(f"nobody is logged in to the Hugging Face hub. {_LOGIN}.")
    if dry_run:
        return sent
    hub = HfApi()
    with _answered(repo):
        made = hub.create_repo(repo, private=private or None, exist_ok=True)
        if branch is not None:
            hub.create_branch(made.repo_id, branch=branch, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, revision=branch, allow_patterns=list(files),
            commit_message=f"datadiet: {_title(folder)}",
        )  # fmt: skip
    return {**sent, "repo": made.repo_id, "url": str(made)}


def _check_name(repo: str) -> None:
    if not _REPO.fullmatch(repo) or re.search(r"\.\.|--|(^|/)[.-]|[.-]($|/)|\.git$", repo):
        raise ArgumentError(
            f"REPO must be NAME or OWNER/NAME of letters, digits, '-', '_' and '.', got {quoted(repo)}."
        )


def _model_folder(run: Path) -> Path:
    """The folder that is sent; a run must be finished, since an unfinished one holds no tested weights."""
    folder = run if (run / "config.json").is_file() else run / run_folder.MODEL
    whole = folder.parent
    if not run.is_dir():
        raise ArgumentError(f"the run folder {run} does not exist.")
    if (whole / run_folder.CONFIG).is_file():
        if not (whole / run_folder.RESULT).exists():
            raise DataError(f"the run in {whole} is unfinished: go on with it by datadiet finetune --resume {whole}.")
        run_folder.checked_result(whole)
    if not (folder / "config.json").is_file():
        raise DataError(f"{run} holds no model: give the folder of a finished run, or its {run_folder.MODEL}/.")
    if not (folder / run_folder.CARD).is_file():
        raise DataError(
            f"{folder} has no model card ({run_folder.CARD}): give a folder that datadiet finetune has made."
        )
    return folder


def _title(folder: Path) -> str:
    """The heading of the card."""
    headings = re.findall(r"^# (.+)$", (folder / run_folder.CARD).read_text(encoding="utf-8"), re.MULTILINE)
    return str(headings[0]) if headings else folder.name


@contextmanager
def _answered(repo: str) -> Iterator[None]:
    """What the hub answers, in one sentence.

    Raises:
        ArgumentError, ConnectionError: Instead of an error of the client.
    """
    from huggingface_hub.errors import HfHubHTTPError

    client_error: type[Exception] = HfHubHTTPError.__bases__[0]  # of its HTTP library
    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise ArgumentError(
                f"the hub refuses to write to {quoted(repo)} (HTTP {code}). {_LOGIN}, with a token that may write."
            ) from error
        if code < 500:
            reason = error.server_message or "no reason"
            raise ArgumentError(f"the hub refuses {quoted(repo)} (HTTP {code}): {reason}") from error
        raise ConnectionError(f"the hub failed (HTTP {code}); nothing is half-written, so try again later") from error
    except (client_error, ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"the hub cannot be reached: {error}; check the network and HF_HUB_OFFLINE") from error
