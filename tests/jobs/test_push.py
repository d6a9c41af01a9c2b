"""Models sent to the hub, against a small hub of the test's own: what arrives, and what each refusal says."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.push import push

CARD = "---\nlibrary_name: transformers\n---\n\n# classification on mine, on a data diet\n"


class Hub:
    """Requests that came, and the status that the next ones get."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.header: dict[str, Any] = {}
        self.status, self.address = 200, ""

    def answer(self, path: str, body: bytes) -> Any:
        """What the hub says to a request."""
        if path == "/api/repos/create":
            wanted = json.loads(body)
            return {"url": f"{self.address}/me/{wanted['name']}", "id": f"me/{wanted['name']}"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for n in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "header":
                    self.header = line["value"]
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{self.address}/me/mine/commit/0",
                "hookOutput": "",
            }
        return {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            hub.requests.append((self.path, self.headers.get("authorization", "")))
            content = hub.answer(self.path, body) if hub.status == 200 else {"error": "the name is taken"}
            self.send_response(hub.status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST

        def log_message(self, *parts: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield hub
    server.shutdown()
    server.server_close()


def model_folder(place: Path) -> Path:
    folder = place / "model"
    folder.mkdir()
    files = {
        "config.json": b"{}",
        "model.safetensors": b"\0" * 100,
        "README.md": CARD.encode(),
        "tokenizer.json": b"{}",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("branch", [None, "diet"])
def test_the_model_and_its_card_arrive_in_one_commit(tmp_path: Path, hub: Hub, branch: str | None) -> None:
    folder = model_folder(tmp_path)
    (folder / "notes").mkdir()
    (folder / "notes" / "private.txt").write_text("not sent")
    sent = push(tmp_path, "mine", branch=branch)
    assert sent["repo"] == "me/mine"
    assert sent["url"] == f"{hub.address}/me/mine"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert sent["files"] == {name: len(content) for name, content in hub.files.items()}
    assert hub.header["summary"] == "datadiet: classification on mine, on a data diet"
    assert [path for path, _ in hub.requests if "commit" in path] == [f"/api/models/me/mine/commit/{branch or 'main'}"]
    written = ("/create", "/preupload/", "/commit/")
    tokens = {token for path, token in hub.requests if any(part in path for part in written)}
    assert tokens == {"Bearer hf_made_up"}


def test_a_dry_run_sends_nothing(tmp_path: Path, hub: Hub) -> None:
    model_folder(tmp_path)
    assert push(tmp_path, "me/mine", dry_run=True)["url"] is None
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (403, ArgumentError, r"the hub refuses to write to 'me/mine' \(HTTP 403\)\. Log in with: hf auth login"),
        (401, ArgumentError, r"with a token that may write"),
        (400, ArgumentError, r"the hub refuses 'me/mine' \(HTTP 400\): the name is taken"),
    ],
)
def test_refusals_of_the_hub(tmp_path: Path, hub: Hub, status: int, error: type[Exception], message: str) -> None:
    model_folder(tmp_path)
    hub.status = status
    with pytest.raises(error, match=message):
        push(tmp_path, "me/mine")


def test_a_hub_that_does_not_answer(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    model_folder(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        push(tmp_path, "me/mine")


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "my model", "owner/", ".x", "x.git", "a--b"])
def test_names_that_the_hub_does_not_allow(tmp_path: Path, repo: str) -> None:
    with pytest.raises(ArgumentError, match="REPO must be NAME or OWNER/NAME"):
        push(tmp_path, repo)


def test_runs_that_have_nothing_to_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="does not exist"):
        push(tmp_path / "none", "me/mine")
    with pytest.raises(DataError, match="holds no model"):
        push(tmp_path, "me/mine")
    folder = model_folder(tmp_path)
    (folder / "README.md").unlink()
    with pytest.raises(DataError, match="no model card"):
        push(tmp_path, "me/mine")
    (tmp_path / "config.yaml").write_text("task: classification\n")
    with pytest.raises(DataError, match="is unfinished: go on with it by datadiet finetune --resume"):
        push(tmp_path, "me/mine")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "config.yaml").unlink()
    (folder / "README.md").write_text(CARD)
    with pytest.raises(ArgumentError, match="nobody is logged in"):
        push(tmp_path, "me/mine")
