"""TF-Encrypted's ABY3 with fresh masks for every call, uniform small masks, and no insecure fallback.

ABY3 (Mohassel and Rindal, CCS 2018): three servers, replicated secret sharing in Z_2^64, semi-honest, honest majority.
TF-Encrypted 0.9.1 breaks it in three ways, each mended here:

- Masks are a keyed function of a counter in Python, which a compiled function bakes in when it is traced. All its calls
  then use the same masks, and one server alone reads the difference of two queries. Here every graph that uses a mask
  draws its keys itself, by stateful operations, so that each execution draws new ones.
- Seeded 8- and 16-bit integers over their full range are one constant (tf-encrypted#900). Comparisons re-share with
  them. Here they are cut from uniform 64-bit integers.
- Without its native random-number module TF-Encrypted only warns. Here nothing is shared without it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_encrypted as tfe
from tf_encrypted.operations import secure_random
from tf_encrypted.protocol import protocol as memoized
from tf_encrypted.tensor import factories

from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError

_SMALL = (tf.int8, tf.int16, tf.int32)
_PROBES = 4096


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys of one graph: those of every two servers, and those of the boolean-to-arithmetic conversion."""

    pairwise: Any
    b2a_1: Any
    b2a_2: Any


class SecureABY3(tfe.protocol.ABY3):
    """ABY3 in Z_2^64 with 16 fractional bits, safe to compile.

    The keys of a mask belong to the graph that uses it (also to the body of a loop), and are drawn by operations of
    that graph, each on the server that owns the key. Eagerly there is one set of keys and a counter that never repeats.

    Raises:
        PipelineError: there is no secure randomness. Raised before any value can be shared.
    """

    def __init__(self) -> None:
        require_secure_randomness()
        mend_small_integers()
        self.pairwise_nonces_: Any = None
        self.b2a_nonce_ = 0
        self.pairwise_keys_: Any = None
        self.b2a_keys_1_: Any = None
        self.b2a_keys_2_: Any = None
        self._keys_of: weakref.WeakKeyDictionary[Any, Keys] = weakref.WeakKeyDictionary()
        self._eager_keys: Keys | None = None
        super().__init__(*SERVERS, fixedpoint_config="low")

    def initialize_keys(self) -> None:
        """Drop all keys; the next use draws new ones."""
        self.pairwise_nonces_ = np.zeros(3, np.int64)
        self.b2a_nonce_ = 0
        self._keys_of.clear()
        self._eager_keys = None
        self.keys_initialized = True

    def pairwise_keys(self) -> Any:
        """Return the keys that servers i and i + 1 share, of the graph that is being built."""
        return self._keys().pairwise

    def b2a_keys_1(self) -> Any:
        """Return the keys of the first mask of a boolean-to-arithmetic conversion."""
        return self._keys().b2a_1

    def b2a_keys_2(self) -> Any:
        """Return the keys of the second mask of a boolean-to-arithmetic conversion."""
        return self._keys().b2a_2

    def _share(self, secret: Any, share_type: Any, player: Any = None) -> Any:
        require_native_module()
        return super()._share(secret, share_type, player)

    def _keys(self) -> Keys:
        if tf.executing_eagerly():
            if self._eager_keys is None:
                self._eager_keys = self._draw()
            return self._eager_keys
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._keys_of:
            self._keys_of[graph] = self._draw()
        return self._keys_of[graph]

    def _draw(self) -> Keys:
        """Return new keys by the parent's set-up, whose operations draw again whenever the graph runs; counters
        go on.
        """
        require_native_module()
        nonces, b2a_nonce = self.pairwise_nonces_, self.b2a_nonce_
        # Otherwise an enclosing condition on values could order, and so delay, the drawing.
        with tf.control_dependencies(None):
            self._setup_pairwise_randomness()
            self._setup_b2a_generator()
        keys = Keys(pairwise=self.pairwise_keys_, b2a_1=self.b2a_keys_1_, b2a_2=self.b2a_keys_2_)
        self.pairwise_keys_ = self.b2a_keys_1_ = self.b2a_keys_2_ = None
        self.pairwise_nonces_, self.b2a_nonce_ = nonces, b2a_nonce
        return keys


def activate(config: Any) -> SecureABY3:
    """Make `config` and a new SecureABY3 the current ones of TF-Encrypted, which holds both in globals.

    Args:
        config: a `tfe.LocalConfig` or `tfe.RemoteConfig` that names the servers.

    Raises:
        PipelineError: a server is missing, or there is no secure randomness.
    """
    require_secure_randomness()
    known = {player.name for player in config.players}
    missing = [name for name in SERVERS if name not in known]
    if missing:
        raise PipelineError(f"the parties' config names no {', '.join(missing)}", fix="name all three servers")
    tfe.set_config(config)
    protocol = SecureABY3()
    tfe.set_protocol(protocol)
    forget_memoized()
    return protocol


def forget_memoized() -> None:
    """Empty TF-Encrypted's global cache of results, whose keys may collide once an object is gone."""
    memoized.nodes.clear()


def require_native_module() -> None:
    """Refuse to go on without the native random-number module.

    Raises:
        PipelineError: it was not loaded.
    """
    if not (secure_random.supports_secure_randomness() and secure_random.supports_seeded_randomness()):
        raise PipelineError(
            f"TF-Encrypted has no secure random-number module for TensorFlow {tf.__version__}: nothing is shared",
            fix="set the environment of encrypted inference up again (privacy-pipeline doctor shows how)",
        )


def require_secure_randomness() -> None:
    """Refuse to go on unless secrets can be masked: the native module is there, and what it draws is not constant.

    Raises:
        PipelineError: with what is wrong.
    """
    require_native_module()
    mend_small_integers()
    if np.array_equal(secure_random.secure_seed().numpy(), secure_random.secure_seed().numpy()):
        raise PipelineError("the secure random-number module gives the same key twice: nothing is shared")
    for dtype in (*_SMALL, tf.int64):
        drawn = factories[dtype].sample_seeded_uniform([_PROBES], secure_random.secure_seed()).value.numpy()
        # 4,096 uniform bytes miss some of the 256 values with probability 3e-5 for one, never 56 of them.
        if len(np.unique(drawn)) < 200 or drawn.min() > dtype.min / 2 or drawn.max() < dtype.max / 2:
            raise PipelineError(f"the secure random-number module draws bad {dtype.name} masks: nothing is shared")


def mend_small_integers() -> None:
    """Replace the samplers of integers below 64 bits, for this process; a second call changes nothing."""
    for dtype in _SMALL:
        factory = factories[dtype]
        if not getattr(factory, "cut_from_int64", False):
            _mend(factory, dtype)


def _mend(factory: Any, dtype: Any) -> None:
    wrap = factory.tensor
    bounded: Callable[..., Any] = factory.sample_seeded_uniform

    def sample_seeded_uniform(shape: Any, seed: Any, minval: int | None = None, maxval: int | None = None) -> Any:
        if minval is not None or maxval is not None:
            return bounded(shape, seed, minval=minval, maxval=maxval)
        return wrap(uniform_bits(shape, seed, dtype=dtype), encode=False)

    def sample_uniform(shape: Any, minval: int | None = None, maxval: int | None = None) -> Any:
        return sample_seeded_uniform(shape, secure_random.secure_seed(), minval, maxval)

    factory.sample_seeded_uniform = sample_seeded_uniform
    factory.sample_uniform = sample_uniform
    factory.cut_from_int64 = True


def uniform_bits(shape: Any, seed: Any, *, dtype: Any) -> Any:
    """Return uniform integers over the whole range of `dtype`, cut from 64-bit ones, which are sampled rightly.

    The latter never take their largest value, so that the distance from uniform is 2^-64 for each eight bytes.

    Args:
        shape: static shape.
        seed: int32, [8].
        dtype: an integer type of at most 64 bits.
    """
    dims = [int(size) for size in shape]
    parts = 8 // dtype.size
    count = math.prod(dims)
    words = secure_random.seeded_random_uniform(
        [-(-count // parts)], minval=tf.int64.min, maxval=tf.int64.max, dtype=tf.int64, seed=seed
    )
    return tf.reshape(tf.reshape(tf.bitcast(words, dtype), [-1])[:count], dims)
