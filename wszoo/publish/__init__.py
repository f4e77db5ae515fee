"""Publishing weights: a folder is checked, pushed whole, fetched back, and only then tagged.

Example:
    >>> from wszoo.publish import file_metadata
    >>> net = {"model": "test_resnet_gn_ws", "tag": "e3_tin200", "formula": "jhu"}
    >>> metadata = file_metadata(**net, settings={"lr": 0.02}, code="15640a")
    >>> metadata["format"], metadata["code"], metadata["recipe_hash"][:12]
    ('pt', '15640a', '9625919d6089')
"""

from wszoo.publish.collection import COLLECTION, collect
from wszoo.publish.failures import VerificationError
from wszoo.publish.files import PublishedFile
from wszoo.publish.folder import Publication, check_folder
from wszoo.publish.run_folder import RunPublication, check_run_folder, is_run_folder
from wszoo.publish.upload import PushReport, check, check_repository, publish, push
from wszoo.weights_file import file_metadata, recipe_hash

__all__ = [
    "COLLECTION",
    "Publication",
    "PublishedFile",
    "PushReport",
    "RunPublication",
    "VerificationError",
    "check",
    "check_folder",
    "check_repository",
    "check_run_folder",
    "collect",
    "file_metadata",
    "is_run_folder",
    "publish",
    "push",
    "recipe_hash",
]
