"""Update codecs: a delta into bytes and back."""

from fedkit.codecs.codec import Codec, CodecContext

__all__ = ["Codec", "CodecContext"]
