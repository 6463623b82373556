"""Laws that every plugin keeps: for our own and for those of plugin authors.

    from fedkit.conformance import check_strategy

    def test_my_strategy_keeps_the_laws() -> None:
        check_strategy(MyStrategy())

Each check returns the names of the laws it has tried and raises ConformanceError(law, reason) on the
first that is broken.
"""

from fedkit.conformance.codec import CODEC_LAWS, check_codec
from fedkit.conformance.federation import FEDERATION_LAWS, check_federation
from fedkit.conformance.strategy import STRATEGY_LAWS, check_strategy

__all__ = [
    "CODEC_LAWS",
    "FEDERATION_LAWS",
    "STRATEGY_LAWS",
    "check_codec",
    "check_federation",
    "check_strategy",
]
