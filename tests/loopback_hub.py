# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A small Hub on 127.0.0.1, which answers huggingface_hub's real client, and breaks off where a test tells it to."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


USERS = {"token-mira": "mira", "token-tobin": "tobin"}
_LFS = (".safetensors", ".png")
_HEX = re.compile(r"[0-9a-f]{40}")


@dataclass
class Repo:
    """Commits by their hash, each a whole tree of `{path: sha256 of the content}`; branches, tags and pull requests name them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    requests: int = 0

    def find(self, revision: str) -> str | None:
        if revision in self.refs:
            return self.refs[revision]
        return revision if revision in self.commits else None

    def commit(self, branch: str, tree: dict[str, str]) -> str:
        oid = hashlib.sha1(json.dumps([len(self.commits), sorted(tree.items())]).encode()).hexdigest()
        self.commits[oid], self.refs[branch] = tree, oid
        return oid


@dataclass
class Fault:
    """
    What goes wrong with the next requests that it fits.

    Args:
        path (`str`): A pattern of the path, as of `fnmatch`.
        kind (`str`): `"cut"` (the connection ends in the middle of the body), `"short"` (all headers say so, too), `"etag"` (a file
            that is not what its etag says), `"slow"` (the body comes in pieces), or a status such as `"503"`.
        times (`int`): How often.
        method (`str`): Of which method; any by default.
    """

    path: str
    kind: str
    times: int = 1
    method: str = "*"


class LoopbackHub:
    """
    The server: started by `with`, its repositories in memory.

    Attributes:
        repos (`dict[str, Repo]`): By id.
        blobs (`dict[str, bytes]`): Contents by sha256.
        log (`list[tuple[str, str]]`): Method and path of every request.
        faults (`list[Fault]`): What goes wrong next.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], revision: str = "main", **settings: Any) -> str:
        """Puts files into a repository as one commit, whatever they are; returns its hash."""
        repo = self.repos.setdefault(repo_id, Repo(**settings))
        tree = dict(repo.commits.get(repo.refs.get(revision, ""), {}))
        return repo.commit(revision, tree | {path: self.store(content) for path, content in files.items()})

    def store(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.blobs[sha] = content
        return sha

    def read(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        repo = self.repos[repo_id]
        return self.blobs[repo.commits[str(repo.find(revision))][path]]

    @contextlib.contextmanager
    def broken(self, *faults: Fault) -> Iterator[None]:
        """Lets requests fail within the `with`; all of them must have happened at its end, or nothing was tested."""
        self.faults = list(faults)
        try:
            yield
            assert not [fault for fault in self.faults if fault.times > 0], "a fault was never met"
        finally:
            self.faults = []

    def take_fault(self, method: str, path: str) -> str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fnmatch(path, fault.path) and fnmatch(method, fault.method):
                    fault.times -= 1
                    return fault.kind
        return None


def check_yaml(content: str) -> list[str]:
    """What the Hub says against the metadata of a card (what of it matters to us)."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        data = yaml.safe_load(match.group(1)) if match else {}
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(data, dict):
        return ["metadata must be a mapping"]
    wrong = []
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            wrong.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if data.get("base_model_relation", "adapter") not in ("adapter", "finetune", "merge", "quantized"):
        wrong.append('"base_model_relation" must be one of adapter, finetune, merge, quantized')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        wrong.append('"tags" must be an array of strings')
    if "license" in data and not re.fullmatch(r"[a-z0-9.-]+", str(data["license"])):
        wrong.append('"license" must be one of the known ones')
    for model in data.get("model-index", []):
        if not model.get("name"):
            wrong.append('"model-index[0].name" is required')
        for result in model.get("results", []):
            if not {"task", "dataset", "metrics"} <= result.keys():
                wrong.append('"model-index[0].results" needs task, dataset and metrics')
            elif not {"type", "name"} <= result["dataset"].keys() or any(
                not isinstance(metric.get("value"), (int, float)) for metric in result["metrics"]
            ):
                wrong.append('"model-index[0].results" needs a dataset of a type and a name, and numbers')
    return wrong


class _Refusal(Exception):
    """An answer with an error: its status, the Hub's code for it, and further headers."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str):
        super().__init__(message or code)
        self.status, self.code, self.headers = status, code, headers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        split = urllib.parse.urlsplit(self.path)
        self.route, self.query = urllib.parse.unquote(split.path), urllib.parse.parse_qs(split.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.log.append((self.command, self.route))
        self.fault = self.hub.take_fault(self.command, self.route)
        try:
            if self.fault is not None and self.fault.isdigit():
                raise _Refusal(int(self.fault), message="the server is not well")
            with self.hub.lock:
                answer = self._answer()
            if answer is not None:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)} if refusal.code else {}
            body = json.dumps({"error": str(refusal)}).encode()
            self._send(refusal.status, body, {k.replace("_", "-"): v for k, v in refusal.headers.items()} | headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        fault = self.fault if self.command in ("GET", "PUT") else None
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        elif fault == "slow":
            for start in range(0, len(body), max(1, len(body) // 8)):
                self.wfile.write(body[start : start + max(1, len(body) // 8)])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    @property
    def user(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and token not in USERS:
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        return USERS.get(token)

    def _answer(self) -> Any:
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", r"/api/whoami-v2", self._whoami),
            ("POST", r"/api/repos/create", self._create),
            ("DELETE", r"/api/repos/delete", self._delete),
            ("POST", r"/api/validate-yaml", self._validate),
            ("POST", r"/api/models/(.+)/preupload/(.+)", self._preupload),
            ("POST", r"/api/models/(.+)/commit/(.+)", self._commit),
            ("POST", r"/api/models/(.+)/paths-info/(.+)", self._paths_info),
            ("POST", r"/api/models/(.+)/tag/(.+)", self._tag),
            ("POST", r"/api/models/(.+)/branch/(.+)", self._branch),
            ("PUT", r"/api/models/(.+)/settings", self._settings),
            ("GET|HEAD", r"/api/models/(.+)/revision/(.+)", self._info),
            ("GET|HEAD", r"/api/models/(.+)/tree/([^/]+)(?:/(.*))?", self._tree),
            ("GET|HEAD", r"/api/models/([^/]+/[^/]+)", self._info),
            ("POST", r"/(.+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/(\w+)", self._upload),
            ("POST", r"/lfs/verify", lambda: self._verify(**json.loads(self.body))),
            ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/(.+?)/(.+)", self._resolve),
        ]
        # the branch of a pull request has slashes of its own, quoted or not
        route = re.sub(r"refs/pr/(\d+)", r"refs%2Fpr%2F\1", self.route)
        for method, pattern, answer in routes:
            match = re.fullmatch(pattern, route)
            if match and re.fullmatch(method, self.command):
                return answer(*(part and urllib.parse.unquote(part) for part in match.groups()))
        raise _Refusal(404, message=f"no such address: {self.route}")

    def _whoami(self) -> Any:
        if self.user is None:
            raise _Refusal(401, message="Invalid username or password.")
        return {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}}

    def _repo(self, repo_id: str, write: bool = False, contents: bool = True) -> Repo:
        repo = self.hub.repos.get(repo_id)
        owner = repo_id.partition("/")[0]
        if repo is None or (repo.private and self.user != owner):
            raise _Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user != owner:
            raise _Refusal(403, message="You don't have the rights to push to this repo")
        if contents and repo.gated and self.user != owner:
            raise _Refusal(403, "GatedRepo", "Access to this model is restricted")
        return repo

    def _revision(self, repo: Repo, revision: str) -> str:
        oid = repo.find(revision)
        if oid is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    def _create(self) -> Any:
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or self.user
        if owner is None or owner != self.user:
            raise _Refusal(403 if self.user else 401, message="You don't have the rights to create a model there")
        repo_id = f"{owner}/{wanted['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            self._send(409, json.dumps({"error": "You already created this model repo", "url": url}).encode(), {})
            return None
        self.hub.repos[repo_id] = Repo(private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        self.hub.add(repo_id, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": url}

    def _delete(self) -> Any:
        wanted = json.loads(self.body)
        del self.hub.repos[f"{wanted.get('organization') or self.user}/{wanted['name']}"]
        return {}

    def _validate(self) -> Any:
        wrong = [{"message": message} for message in check_yaml(json.loads(self.body)["content"])]
        if wrong:
            self._send(400, json.dumps({"errors": wrong, "warnings": []}).encode(), {})
            return None
        return {"errors": [], "warnings": []}

    def _preupload(self, repo_id: str, revision: str) -> Any:
        self._repo(repo_id, write="create_pr" not in self.query)
        files = json.loads(self.body)["files"]
        lfs = [file["path"].endswith(_LFS) or file["size"] > 10_000_000 for file in files]
        return {
            "files": [
                {"path": file["path"], "uploadMode": "lfs" if big else "regular", "shouldIgnore": False}
                for file, big in zip(files, lfs)
            ]
        }

    def _batch(self, repo_id: str) -> Any:
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
                known["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(known)
        return {"transfer": "basic", "objects": objects}

    def _upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, message="the content is not what its hash says")
        self.hub.blobs[oid] = self.body
        return {}

    def _verify(self, oid: str, size: int) -> Any:
        if len(self.hub.blobs.get(oid, b"")) != size:
            raise _Refusal(404, message="no such object")
        return {}

    def _commit(self, repo_id: str, revision: str) -> Any:
        proposes = "create_pr" in self.query
        repo = self._repo(repo_id, write=not proposes)
        parent = self._revision(repo, revision)
        tree = dict(repo.commits[parent])
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", parent) != parent:
                raise _Refusal(412, message="A commit has happened since. Please refresh and try again.")
            if key == "file":
                tree[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise _Refusal(400, message=f"LFS object {value['oid']} was never uploaded")
                tree[value["path"]] = value["oid"]
            elif key == "deletedFile":
                tree.pop(value["path"], None)
        if proposes:
            repo.requests += 1
            revision = f"refs/pr/{repo.requests}"
        oid = repo.commit(revision, tree)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
        if proposes:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{repo.requests}"
        return answer

    def _tag(self, repo_id: str, revision: str) -> Any:
        repo = self._repo(repo_id, write=True)
        repo.refs[json.loads(self.body)["tag"]] = self._revision(repo, revision)
        return {}

    def _branch(self, repo_id: str, name: str) -> Any:
        repo = self._repo(repo_id, write=True)
        if name in repo.refs:
            raise _Refusal(409, message="Reference already exists")
        repo.refs[name] = self._revision(repo, json.loads(self.body or b"{}").get("startingPoint", "main"))
        return {}

    def _settings(self, repo_id: str) -> Any:
        repo, wanted = self._repo(repo_id, write=True), json.loads(self.body)
        repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = bool(wanted.get("gated", repo.gated))
        return {}

    def _info(self, repo_id: str, revision: str = "main") -> Any:
        repo = self._repo(repo_id, contents=False)
        oid = self._revision(repo, revision)
        tree = sorted(repo.commits[oid].items())
        siblings = [{"rfilename": path, "size": len(self.hub.blobs[sha])} for path, sha in tree]
        return {
            "id": repo_id,
            "modelId": repo_id,
            "sha": oid,
            "private": repo.private,
            "siblings": siblings,
            "tags": [],
        }

    def _tree(self, repo_id: str, revision: str, folder: str | None = None) -> Any:
        repo = self._repo(repo_id, contents=False)
        tree = repo.commits[self._revision(repo, revision)]
        entries: list[dict[str, Any]] = []
        for path, sha in sorted(tree.items()):
            if folder and not path.startswith(folder + "/"):
                continue
            entry = {
                "type": "file",
                "path": path,
                "size": len(self.hub.blobs[sha]),
                "oid": _git_sha(self.hub.blobs[sha]),
            }
            if path.endswith(_LFS):
                entry["lfs"] = {"oid": sha, "size": entry["size"], "pointerSize": 130}
            entries.append(entry)
        return entries

    def _paths_info(self, repo_id: str, revision: str) -> Any:
        paths = urllib.parse.parse_qs(self.body.decode())["paths"]
        return [entry for entry in self._tree(repo_id, revision) if entry["path"] in paths]

    def _resolve(self, repo_id: str, revision: str, path: str) -> Any:
        repo = self._repo(repo_id)
        oid = self._revision(repo, revision)
        commit = {"X-Repo-Commit": oid}
        if path not in repo.commits[oid]:
            raise _Refusal(404, "EntryNotFound", "Entry not found", **{"X_Repo_Commit": oid})
        sha = repo.commits[oid][path]
        content = self.hub.blobs[sha]
        # as the Hub does: a file of LFS goes by its sha256, any other by its git hash
        etag = f'"{sha if path.endswith(_LFS) else _git_sha(content)}"'
        if self.fault == "etag":
            content = content[:-1] + bytes([content[-1] ^ 1])
        size = str(len(content))
        headers = commit | {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": size, "Accept-Ranges": "bytes"}
        status, asked = 200, self.headers.get("Range")
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            last = int(end) if end else len(content) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[int(start) : last + 1], 206
        self._send(status, content, headers | ({"Content-Length": size} if self.command == "HEAD" else {}))
        return None


def _git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
