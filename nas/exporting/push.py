"""Sends an export to the Hugging Face hub, as a model that timm loads from there."""

import hashlib
import re
from os import PathLike
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from nas.errors import NasError, describe_error
from nas.models.export_folder import FILES, README_FILE, SUMS_FILE, read_export, sha256

NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
LOG_IN: Final = "`hf auth login`, or HF_TOKEN, gives it a token that may write"
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

    The README.md there also says how to load the network from the hub. A repeated push sends what has changed.

    Raises: NasError if the folder is no export or is damaged, the name is no OWNER/NAME, or the hub cannot be reached or refuses.
    """
    source = Path(folder).expanduser()
    _, _, card = read_export(source)
    if not NAME.fullmatch(repo):
        raise _no_name(repo)
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        files = _files(source, repo)
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        api.create_commit(repo, additions, commit_message=f"Upload {card['id']}")
    except HFValidationError:
        raise _no_name(repo) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise NasError(f"{api.endpoint} does not know who you are: {LOG_IN}") from None
        if status == 403:
            raise NasError(f"{repo}: you may not write there; {LOG_IN} to it, or give another OWNER") from None
        raise NasError(f"{repo}: {api.endpoint} refuses: {describe_error(error)}") from None
    except OSError as error:
        raise NasError(f"{repo}: {api.endpoint} cannot be reached: {describe_error(error)}") from None
    except Exception as error:  # noqa: BLE001 - of the library's own HTTP client, which differs from version to version
        raise NasError(f"{repo} cannot be sent to {api.endpoint}: {describe_error(error)}") from None
    return str(url)


def _no_name(repo: str) -> NasError:
    what = "give OWNER/NAME, of letters, digits, -, _ and ., such as anna/mobilenet-digits"
    return NasError(f"{repo!r} is not a repository of the hub; {what}")


def _files(source: Path, repo: str) -> dict[str, Path | bytes]:
    """The files to send by name: those of the export, with a README.md that loads it from the hub."""
    files: dict[str, Path | bytes] = {name: source / name for name in sorted(FILES) if (source / name).is_file()}
    if README_FILE in files:
        text = (source / README_FILE).read_text(encoding="utf-8")
        there = text.replace("## Load\n\n", f"## Load\n\n{FROM_HUB.format(repo=repo)}\n", 1).encode()
        before, after = sha256(source / README_FILE), hashlib.sha256(there).hexdigest()
        files[README_FILE] = there
        files[SUMS_FILE] = (source / SUMS_FILE).read_text(encoding="utf-8").replace(before, after).encode()
    return files
