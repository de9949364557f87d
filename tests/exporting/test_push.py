"""What `nas push` sends to the hub: a stand-in server takes what the real `huggingface_hub` sends, and timm loads it."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import nas
from nas.errors import NasError
from nas.exporting.push import push
from nas.models.export_folder import FILES

pytestmark = pytest.mark.slow
LOAD = """
import sys, json, timm, torch
sys.path.insert(0, sys.argv[1])
import model
network = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
with torch.no_grad():
    print(json.dumps(network(torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).tolist()))
"""


class Hub(BaseHTTPRequestHandler):
    """The calls of the hub that make a repository and commit to it."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if status := self.server.refusal:
            return self._answer({"error": "no"}, status)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append((f"{asked['organization']}/{asked['name']}", asked.get("visibility", asked.get("private"))))
            return self._answer({"url": f"{self.server.url}/anna/digits"})
        if self.path.endswith("/preupload/main"):
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return self._answer({"files": files})
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del self.server.files[line["value"]["path"]]
            return self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/anna/digits/commit/0"})
        return self._answer({"valid": True, "warnings": [], "errors": []})

    def do_GET(self):
        if "/tree/" not in self.path:
            return self._answer({"error": "not found"}, 404)
        return self._answer([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.server.files])

    def _answer(self, answer, status=200):
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.refusal, server.made, server.files = f"http://127.0.0.1:{server.server_port}", None, [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield server
    server.shutdown()


def test_what_arrives_is_the_export_and_timm_loads_it(hub, digits_export, tmp_path, typed):
    printed = typed("push", digits_export, "anna/digits", "--private", cwd=tmp_path)
    assert printed.startswith(f"{hub.url}/anna/digits\n")
    assert hub.made == [("anna/digits", "private")]
    assert hub.files.keys() == {file.name for file in digits_export.iterdir()} & FILES
    there = tmp_path / "there"
    there.mkdir()
    for name, content in hub.files.items():
        (there / name).write_bytes(content)
    assert 'timm.create_model("hf-hub:anna/digits", pretrained=True)' in (there / "README.md").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=there, check=True)
    answer = subprocess.run([sys.executable, "-c", LOAD, there], capture_output=True, text=True, check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = nas.load(digits_export)(torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
    torch.testing.assert_close(torch.tensor(json.loads(answer.stdout)), expected)


def test_an_edited_readme_is_sent_with_sums_that_fit_and_old_files_go(hub, digits_export, tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(digits_export, folder)
    (folder / "README.md").write_text("My own words.\n")
    hub.files |= {"model_int8.onnx": b"of an earlier export", "notes.txt": b"of somebody"}
    push(folder, "anna/digits")
    assert "model_int8.onnx" not in hub.files
    assert hub.files["notes.txt"] == b"of somebody"
    readme = hub.files["README.md"].decode()
    assert readme.startswith("My own words.\n")
    assert 'timm.create_model("hf-hub:anna/digits", pretrained=True)' in readme
    assert f"{hashlib.sha256(readme.encode()).hexdigest()}  README.md\n" in hub.files["SHA256SUMS"].decode()
    (folder / "model.onnx").unlink()
    with pytest.raises(NasError, match=r"is not whole: it has no model\.onnx; export the network again"):
        push(folder, "anna/digits")


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "does not know who you are: `hf auth login`"), (403, "you may not write there"), (500, "refuses: ")],
)
def test_a_refusal_says_what_to_do(hub, digits_export, status, sentence):
    hub.refusal = status
    with pytest.raises(NasError, match=sentence):
        push(digits_export, "anna/digits")
    assert not hub.files


def test_a_hub_out_of_reach_is_one_sentence(digits_export, tmp_path, mistaken, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "anna/digits" in mistaken("push", digits_export, "anna/digits", cwd=tmp_path)


def test_a_wrong_name_or_folder_is_refused(digits_export, tmp_path, mistaken):
    for name in ("digits", "a/b/c", "anna/di gits"):
        assert "give OWNER/NAME" in mistaken("push", digits_export, name, cwd=tmp_path)
    for name in ("anna/--x", "anna/é", "anna/net.git"):
        assert f"{name!r} is not a repository of the hub: " in mistaken("push", digits_export, name, cwd=tmp_path)
    assert "is not an exported network" in mistaken("push", tmp_path, "anna/digits", cwd=tmp_path)
