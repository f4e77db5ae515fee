"""The collection of the Hub that shows all weights of the zoo on one page."""

from collections.abc import Sequence

from huggingface_hub import HfApi

from wszoo.describe import describe
from wszoo.publish.failures import explained
from wszoo.weights import Weights, find

COLLECTION = "WS zoo"
_DESCRIPTION = "ResNets with Weight Standardization and batch-free norms, for small batches"


def collect(
    pushed: Sequence[tuple[str | None, str]], *, slug: str | None = None, private: bool = False
) -> str:
    """Put repositories into a collection, those that are in it already left as they are.

    Args:
        pushed: Name of the weights, ``"model.tag"``, or None of a run, and their repository, in the
            order to show.
        slug: The collection as the Hub names it; where None, the one with the title ``COLLECTION``
            of the account that the first repository is in, made if there is none.
        private: Whether one that is made is private.

    Returns:
        The collection's slug.

    Raises:
        PermissionError, ConnectionError, FileNotFoundError, ValueError, OSError: As the Hub or the
            network would have it; the message says that the weights are published.
        KeyboardInterrupt: With a message that says so, too.
    """
    api = HfApi(token=True, library_name="wszoo")
    namespace = pushed[0][1].partition("/")[0]
    left = "the weights are published, the collection is not complete: repeat the command"
    with explained(f"the collection {slug or COLLECTION!r} of {namespace}", left):
        if slug is None:
            slug = api.create_collection(
                COLLECTION,
                namespace=namespace,
                description=_DESCRIPTION,
                private=private,
                exists_ok=True,
            ).slug
        for name, repository in pushed:
            note = _note(find(name)) if name else None
            api.add_collection_item(slug, repository, item_type="model", note=note, exists_ok=True)
    return slug


def _note(weights: Weights) -> str:
    """What stands beside a model in the collection: accuracy and size."""
    scores = [f"{scores['top1']} % top-1 on {data}" for data, scores in weights.metrics.items()]
    return ", ".join([*scores, f"{describe(weights.model, weights)['params']} parameters"])
