"""What `atlas` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.arguments.labels import labels_text, parse_labels
from binderclip.tasks.fields import MOST_SEED, BatchSize, Device, Dtype, Images, Labels, Model
from binderclip.tasks.request import Option, Request


def _layouts() -> tuple[str, ...]:
    from binderclip.search.atlas.layout import LAYOUTS

    return LAYOUTS


def _clusterings() -> tuple[str, ...]:
    from binderclip.search.atlas.clusters import CLUSTERINGS

    return CLUSTERINGS


def _parse_words(words: str) -> list[str]:
    return parse_labels(words, "--words")


class AtlasRequest(Request):
    """Map a folder: pictures that are alike lie side by side, and each cluster is named by the words that fit it.

    Examples:

        binderclip atlas holiday/

        binderclip atlas holiday/ --words "beach,food,people,city" --clusters 6 --out map/

    Writes map.png (the pictures at their places), map.csv (image, x, y, cluster, words) and map.json. A folder that
    `search index` has indexed with the same model is not encoded again.
    """

    task: ClassVar[str] = "atlas"

    images: Images
    out: Annotated[str, Option("Folder of the map.", ("--out", "-o"), output=True)] = "map"
    layout: Annotated[str, Option("`tsne`, or `pca`, which is linear.", choices=_layouts)] = "tsne"
    perplexity: Annotated[
        float,
        Field(ge=2, le=500),
        Option("Neighbours that t-SNE heeds; at most a third of the pictures.", label="Neighbours that t-SNE heeds"),
    ] = 30.0
    clustering: Annotated[
        str,
        Option("`k-means`, or `hdbscan`, which leaves out what is near to nothing.", choices=_clusterings),
    ] = "k-means"
    clusters: Annotated[
        int | None,
        Field(ge=1, le=100),
        Option("Clusters of k-means [default: of 2 to 20 the number with the largest silhouette]."),
    ] = None
    least: Annotated[
        int, Field(ge=2, le=10_000), Option("Pictures of HDBSCAN's smallest cluster.", label="Smallest cluster")
    ] = 5
    words: Annotated[
        Labels | None,
        Option(
            "Words that clusters are named by, separated by commas, or `@FILE`, one a line [default: everyday words].",
            parse=_parse_words,
            write=labels_text,
            label="Words for the clusters, separated by commas",
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=20_000), Option("Most pictures, spread evenly over all there are.")] = 5000
    shown: Annotated[int, Field(ge=1, le=900), Option("Most pictures on map.png.", label="Pictures on the sheet")] = 400
    index: Annotated[bool, Option("Take embeddings from FOLDER/.binderclip where an index is there.")] = True
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of t-SNE and k-means.")] = 0
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64

    @model_validator(mode="after")
    def _fits(self) -> AtlasRequest:
        if self.clusters is not None and self.clustering != "k-means":
            raise UsageError("--clusters is of k-means: leave it out, or take --clustering k-means")
        return self
