"""Photos by the names that COCO files call them."""

import posixpath
from collections import defaultdict

from wszoo.datasets.annotations import AnnotatedSet, split_of
from wszoo.datasets.classification import IMAGE_SUFFIXES
from wszoo.datasets.file_tree import FileTree


class PhotoFinder:
    """Finds photos by the names that annotation files call them.

    Attributes:
        tree: Where it looks.
        used: Paths of all photos that it has found.
    """

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for key in tree.with_suffix(*IMAGE_SUFFIXES):
            self._by_name[posixpath.basename(key)].append(key)
        self.used: set[str] = set()

    def find(self, file_name: str, folder: str, split: str | None) -> list[str]:
        """Paths that may be meant: one if it is clear, none if there is no such photo.

        It is looked for beside the annotation file, then below the root, then anywhere.
        A photo in the folder of another split is never meant, unless by its whole path. Of an
        absolute path, which is of another machine, only the last part counts.
        """
        wanted = posixpath.normpath(file_name.replace("\\", "/"))
        if wanted.startswith("/") or ":/" in wanted:
            wanted = posixpath.basename(wanted)
        for exact in (posixpath.join(folder, wanted), wanted):
            if exact in self.tree.files:
                return [exact]
        named = self._by_name[posixpath.basename(wanted)]
        ending = [key for key in named if f"/{key}".endswith(f"/{wanted}")]
        of_split = [key for key in ending if split_of(posixpath.dirname(key) + "/") == split]
        neutral = [key for key in ending if split_of(posixpath.dirname(key) + "/") is None]
        return of_split or neutral or ([] if split else ending)

    def report_unlisted(self, found: AnnotatedSet) -> None:
        """Note photos in the folders of listed ones that no file lists."""
        folders = {posixpath.dirname(key) for key in self.used}
        for keys in self._by_name.values():
            for key in keys:
                if key not in self.used and posixpath.dirname(key) in folders:
                    found.report("image-unlisted", f"{self.tree.name(key)}: in no annotation file")
