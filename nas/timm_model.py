"""Our networks as a model of timm's, so that `timm.create_model("local-dir:FOLDER")` takes an export as it is.

`import nas` is enough, before timm or after. Read `scaling.py` next.
"""

import json
from typing import Any

from timm.models import register_model
from torch import nn

from nas.architecture import Architecture


@register_model  # type: ignore[untyped-decorator]
def frontier_nas(pretrained: bool = False, *, architecture: dict[str, Any], **options: Any) -> nn.Module:  # noqa: FBT001, FBT002
    """The network of an architecture in plain values, which `config.json` of an export has; `options` are those of timm's own.

    Raises: NasError for values that are not an architecture.
    """
    from nas.standalone import frontier_nas as make  # which imports timm, and timm this file

    plain = json.loads(Architecture.from_json(json.dumps(architecture)).to_json())
    return make(pretrained, architecture=plain, **options)
