# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A Hub on this machine: the part of its HTTP interface that the real `huggingface_hub` client speaks.

The client is pointed at it by `HF_ENDPOINT` and is not changed in any way. Files live in memory. Large and binary
files go through Git LFS (`HF_HUB_DISABLE_XET=1`; Xet's own storage protocol is not spoken here).
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER, TOKEN = "someone", "hf_of_someone"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin")


@dataclass
class File:
    """What a commit holds under a path."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As git names a blob; of an LFS file, its pointer."""
        digest = hashlib.sha256(self.content).hexdigest()
        text = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(self.content)}\n"
            text = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repository:
    """A repository with one branch, `main`."""

    kind: str
    id: str
    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, File], message: str) -> str:
        sha = hashlib.sha1(f"{self.kind} {self.id} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    @property
    def files(self) -> dict[str, File]:
        return self.commits[self.head]

    def resolve(self, revision: str) -> str | None:
        return self.head if revision == "main" else revision if revision in self.commits else None

    def info(self, sha: str) -> dict:
        card = self.commits[sha].get("README.md")
        head = re.match(r"---\n(.*?)\n---\n", card.content.decode(), re.DOTALL) if card else None
        return {
            "_id": "0" * 24,
            "id": self.id,
            "sha": sha,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": yaml.safe_load(head[1]) if head else {},
            "siblings": [{"rfilename": path} for path in self.commits[sha]],
        }


@dataclass
class Failure:
    """Requests that match `pattern` (method and path) are answered with `status`, after `seconds`; 0 cuts the line."""

    pattern: str
    status: int
    message: str = ""
    times: int = 10**6
    seconds: float = 0.0


class HubServer(ThreadingHTTPServer):
    """The Hub. `with HubServer() as hub:` serves at `hub.url`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *failure) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home) -> dict[str, str]:
        """For a client whose cache is under `home`, on top of its other variables."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def repository(self, id: str, kind: str = "model") -> Repository:
        return self.repositories[kind, id]

    def create(self, id: str, kind: str = "model", private: bool = False, **files: bytes) -> Repository:
        """A repository that is there already; `**files` by path."""
        made = self.repositories[kind, id] = Repository(kind, id, private)
        made.commit({path: File(content, path.endswith(LFS_SUFFIXES)) for path, content in files.items()}, "initial")
        return made

    def fail(self, pattern: str, status: int, message: str = "", **options) -> None:
        self.failures.append(Failure(pattern, status, message, **options))

    def failure_for(self, request: str) -> Failure | None:
        with self.lock:
            for failure in self.failures:
                if failure.times > 0 and re.search(failure.pattern, request):
                    failure.times -= 1
                    return failure
        return None


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
_ID = r"(?P<id>[^/]+/[^/]+?)"
_API = rf"/api/(?P<kind>model|dataset)s/{_ID}"


def route(method: str, pattern: str):
    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments) -> None:
        pass

    def handle_any(self) -> None:
        self.body = self._read()
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.requests.append(f"{self.command} {parts.path}")
        failure = self.server.failure_for(f"{self.command} {parts.path}")
        if failure is not None:
            time.sleep(failure.seconds)
        if failure is not None and failure.status == 0:
            self.close_connection = True
            return
        if failure is not None:
            return self.refuse(failure.status, failure.message)
        method = "GET" if self.command == "HEAD" else self.command
        for name, pattern, function in ROUTES:
            found = pattern.fullmatch(parts.path)
            if name == method and found:
                asked = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                with self.server.lock:
                    return function(self, **asked)
        self.refuse(404, "Not found", "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def user(self) -> str | None:
        return USER if self.headers.get("Authorization") == f"Bearer {TOKEN}" else None

    def answer(self, value, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        self.send_response(status)
        for name, text in {"Content-Type": kind, "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str | None = None, headers: dict | None = None) -> None:
        said = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer({"error": message}, status, said)

    def find(self, kind: str, id: str, write: bool = False) -> Repository | None:
        """The repository, or `None` after a refusal."""
        found = self.server.repositories.get((kind, id))
        if found is not None and self.user is None and write:
            self.refuse(401, "Invalid credentials in Authorization header")
            return None
        if found is None or (found.private and self.user is None):
            self.refuse(404 if self.user else 401, "Repository not found", "RepoNotFound")
            return None
        return found

    def find_at(self, kind: str, id: str, revision: str) -> tuple[Repository, str] | None:
        found = self.find(kind, id)
        if found is None:
            return None
        sha = found.resolve(revision)
        if sha is None:
            self.refuse(404, "Invalid rev id", "RevisionNotFound")
            return None
        return found, sha


@route("GET", "/api/whoami-v2")
def whoami(request: Handler):
    if request.user is None:
        return request.refuse(401, "Invalid credentials in Authorization header")
    token = {"displayName": "t", "role": "write"}
    request.answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})


@route("POST", "/api/repos/create")
def create(request: Handler):
    if request.user is None:
        return request.refuse(401, "Invalid credentials in Authorization header")
    asked, server = request.json, request.server
    kind, id = asked.get("type") or "model", f"{asked.get('organization') or USER}/{asked['name']}"
    url = f"{server.url}/{'datasets/' if kind == 'dataset' else ''}{id}"
    if (kind, id) in server.repositories:
        return request.answer({"error": "You already created this repo", "url": url}, 409)
    server.create(id, kind, asked.get("visibility") == "private", **{".gitattributes": b"*.safetensors filter=lfs\n"})
    request.answer({"url": url, "name": id})


@route("POST", "/api/validate-yaml")
def validate(request: Handler):
    head = re.match(r"---\n(.*?)\n---\n", request.json["content"], re.DOTALL)
    try:
        read = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        return request.answer({"errors": [{"message": str(error)}]}, 400)
    errors = [] if read is None or isinstance(read, dict) else ["not a mapping"]
    for key in ("base_model", "datasets") if isinstance(read, dict) else ():
        named = read.get(key) or []
        for name in [named] if isinstance(named, str) else named:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
                errors.append(f'"{key}" with value "{name}" is not valid.')
    answers = {"errors": [{"message": error} for error in errors], "warnings": []}
    request.answer(answers, 400 if errors else 200)


@route("GET", _API + r"(?:/revision/(?P<revision>[^/]+))?")
def info(request: Handler, kind: str, id: str, revision: str = "main"):
    if found := request.find_at(kind, id, revision):
        request.answer(found[0].info(found[1]))


@route("GET", _API + "/refs")
def refs(request: Handler, kind: str, id: str):
    if found := request.find(kind, id):
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}
        request.answer({"branches": [main], "tags": [], "converts": []})


@route("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
def tree(request: Handler, kind: str, id: str, revision: str, path: str = ""):
    if not (found := request.find_at(kind, id, revision)):
        return
    recursive = request.query.get("recursive", "").lower() == "true"
    files = found[0].commits[found[1]]
    listed = list_folder(files, path, recursive)
    if path and not listed:
        return request.refuse(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": found[1]})
    request.answer(listed)


def list_folder(files: dict[str, File], path: str, recursive: bool) -> list[dict]:
    prefix = f"{path}/" if path else ""
    inside = {name: file for name, file in files.items() if name.startswith(prefix)}
    folders = {
        prefix + "/".join(parts[:depth])
        for name in inside
        if (parts := name.removeprefix(prefix).split("/"))
        for depth in range(1, len(parts))
        if recursive or depth == 1
    }
    shown = {name: file for name, file in inside.items() if recursive or "/" not in name.removeprefix(prefix)}
    entries = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
    return [*entries, *(file.entry(name) for name, file in shown.items())]


@route("POST", _API + r"/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Handler, kind: str, id: str, revision: str):
    if not (found := request.find_at(kind, id, revision)):
        return
    text = request.body.decode()
    form = request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
    asked = parse_qs(text).get("paths", []) if form else json.loads(text)["paths"]
    files, entries = found[0].commits[found[1]], []
    for path in asked if isinstance(asked, list) else [asked]:
        if path in files:
            entries.append(files[path].entry(path))
        elif any(name.startswith(f"{path}/") for name in files):
            entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
    request.answer(entries)


@route("POST", _API + r"/preupload/(?P<revision>[^/]+)")
def preupload(request: Handler, kind: str, id: str, revision: str):
    if not (found := request.find(kind, id, write=True)):
        return
    stored = found.files.get(".gitignore")
    ignored = request.json.get("gitIgnore", stored.content.decode() if stored else "").splitlines()
    answers = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10**7 else "regular",
            "shouldIgnore": is_ignored(file["path"], ignored),
            "oid": found.files[file["path"]].oid if file["path"] in found.files else None,
        }
        for file in request.json["files"]
    ]
    request.answer({"files": answers, "commitOid": found.head})


def is_ignored(path: str, patterns: list[str]) -> bool:
    """The part of gitignore that is used here: names of files and folders at any depth, or from the root after `/`."""
    parts = path.split("/")
    for pattern in (line.strip() for line in patterns):
        if not pattern or pattern.startswith("#"):
            continue
        name = pattern.strip("/")
        names = parts[:-1] if pattern.endswith("/") else parts
        names = names[:1] if pattern.startswith("/") else names
        if any(fnmatch.fnmatch(part, name) for part in names):
            return True
    return False


@route("POST", rf"/(?P<prefix>datasets/)?{_ID}\.git/info/lfs/objects/batch")
def lfs_batch(request: Handler, id: str, prefix: str | None = None):
    if not request.find("dataset" if prefix else "model", id, write=True):
        return
    url = request.server.url
    objects = []
    for asked in request.json["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in request.server.blobs:
            upload = {"href": f"{url}/lfs/upload/{asked['oid']}"}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{url}/lfs/verify"}}
        objects.append(entry)
    request.answer({"transfer": "basic", "objects": objects})


@route("PUT", r"/lfs/upload/(?P<oid>[0-9a-f]{64})")
def lfs_upload(request: Handler, oid: str):
    if hashlib.sha256(request.body).hexdigest() != oid:
        return request.refuse(400, "The content is not what its sha256 says")
    request.server.blobs[oid] = request.body
    request.answer(b"")


@route("POST", "/lfs/verify")
def lfs_verify(request: Handler):
    asked = request.json
    there = len(request.server.blobs.get(asked["oid"], b"")) == asked["size"]
    request.answer({}) if there else request.refuse(404, "No such object")


@route("POST", _API + r"/commit/(?P<revision>[^/]+)")
def commit(request: Handler, kind: str, id: str, revision: str):
    if not (found := request.find(kind, id, write=True)):
        return
    files, message = dict(found.files), ""
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            message = value["summary"]
        elif item["key"] == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]), False)
        elif item["key"] == "lfsFile":
            if value["oid"] not in request.server.blobs:
                return request.refuse(400, f"{value['path']} was not uploaded")
            files[value["path"]] = File(request.server.blobs[value["oid"]], True)
        elif item["key"] == "deletedFile":
            del files[value["path"]]
        else:
            return request.refuse(400, f"unknown operation {item['key']}")
    sha = found.commit(files, message)
    url = f"{request.server.url}/{'datasets/' if kind == 'dataset' else ''}{id}/commit/{sha}"
    request.answer({"commitUrl": url, "commitOid": sha, "success": True})


@route("GET", rf"/(?P<prefix>datasets/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def download(request: Handler, id: str, revision: str, path: str, prefix: str | None = None):
    found = request.find_at("dataset" if prefix else "model", id, revision)
    if not found:
        return
    repository, sha = found
    file = repository.commits[sha].get(path)
    if file is None:
        return request.refuse(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
    etag = f'"{file.sha256 if file.lfs else file.oid}"'
    headers = {"X-Repo-Commit": sha, "ETag": etag, "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(file.content))}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if asked is None:
        return request.answer(file.content, 200, headers)
    first, last = int(asked[1]), int(asked[2] or len(file.content) - 1)
    last = min(last, len(file.content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
    request.answer(file.content[first : last + 1], 206, headers)
