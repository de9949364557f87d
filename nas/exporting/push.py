"""Sends an export to the Hugging Face hub, as a model that timm loads from there."""

import hashlib
import re
from os import PathLike
from pathlib import Path
from typing import Any, Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from nas.errors import NasError, describe_error
from nas.models.export_folder import FILES, README_FILE, SUMS_FILE, read_digests, read_export

NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
LOG_IN: Final = "`hf auth login`, or HF_TOKEN, gives it a token that may write"
LOAD: Final = "## Load\n\n"
FROM_HUB: Final = """\
From the hub, with `pip install 'timm>=1.0.26'`:
```python
import sys

from huggingface_hub import snapshot_download

sys.path.append(snapshot_download("{repo}"))
import model  # registers the network with timm
import timm

network = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
```
"""


def push(folder: str | PathLike[str], repo: str, *, private: bool = False) -> str:
    """Send the files of an export to the model repository `repo` of the Hugging Face hub, made if it is not there; gives its URL.

    The README.md there also says how to load the network from the hub. A repeated push sends what has changed, and
    removes the files of an earlier export that this one does not have.

    Raises: NasError if the folder is no export, is damaged or lacks a file, the name is no OWNER/NAME, or the hub cannot be
    reached or refuses.
    """
    source = Path(folder).expanduser()
    _, _, card = read_export(source)
    if not NAME.fullmatch(repo):
        raise NasError(f"{repo!r} is not a repository of the hub; give OWNER/NAME, such as anna/mobilenet-digits")
    files, api = _files(source, repo), HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        changes: list[Any] = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        old = FILES.intersection(api.list_repo_files(repo)).difference(files)  # of an earlier push
        changes += [CommitOperationDelete(path_in_repo=name) for name in sorted(old)]
        api.create_commit(repo, changes, commit_message=f"Upload {card['id']}")
    except HFValidationError as error:
        raise NasError(f"{repo!r} is not a repository of the hub: {describe_error(error)}") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise NasError(f"{api.endpoint} does not know who you are: {LOG_IN}") from None
        if status == 403:
            raise NasError(f"{repo}: you may not write there; {LOG_IN} to it, or give another OWNER") from None
        raise NasError(f"{repo}: {api.endpoint} refuses: {error.server_message or describe_error(error)}") from None
    except OSError as error:
        raise NasError(f"{repo}: {api.endpoint} cannot be reached: {describe_error(error)}") from None
    except Exception as error:  # noqa: BLE001 - of the library's own HTTP client, which differs from version to version
        raise NasError(f"{repo} cannot be sent to {api.endpoint}: {describe_error(error)}") from None
    return str(url)


def _files(source: Path, repo: str) -> dict[str, Path | bytes]:
    """The files to send by name: those of the export, with a README.md that loads it from the hub.

    Raises: NasError if a file is missing, or README.md is no text.
    """
    digests = read_digests(source / SUMS_FILE)
    if missing := sorted(name for name in digests if not (source / name).is_file()):
        raise NasError(f"{source} is not whole: it has no {missing[0]}; export the network again")
    readme = source / README_FILE
    try:
        text = readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NasError(f"{readme} is not UTF-8: {error}") from None
    before, heading, after = text.partition(LOAD)
    there = f"{before}{LOAD}{FROM_HUB.format(repo=repo)}\n{after if heading else ''}".encode()
    digests[README_FILE] = hashlib.sha256(there).hexdigest()
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    files: dict[str, Path | bytes] = {name: source / name for name in sorted(digests)}
    return {**files, README_FILE: there, SUMS_FILE: sums.encode()}
