"""The config's block of the `federated` backend: clients, how they are drawn, algorithm and privacy of clients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from privacy_pipeline.config.extensions import ProtectionName, algorithms, either, protections
from privacy_pipeline.config.models.base import Section
from privacy_pipeline.config.models.dp import AdaptiveSection, Delta, PositiveFloat, require_one_target
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.config.models.ranges import ClippingNorm, NoiseMultiplier


class SyntheticClientsSection(Section):
    """How rows are dealt out to made-up clients, for data whose rows belong to nobody."""

    rule: Annotated[
        Literal["iid", "label_skew", "quantity_skew"],
        Field(description="Equal shares at random; or shares of the classes, or sizes, from a Dirichlet distribution."),
    ] = "iid"
    clients: Annotated[int, Field(ge=1, description="How many.")]
    alpha: Annotated[
        PositiveFloat | None, Field(description="Concentration of the Dirichlet distribution; less is more skew.")
    ] = None
    seed: Annotated[int, Field(ge=0, description="Of the dealing; the same clients in each run.")] = 0

    @model_validator(mode="after")
    def _alpha_of_the_rule(self) -> SyntheticClientsSection:
        if (self.alpha is not None) != (self.rule != "iid"):
            raise ValueError("`alpha` goes with `rule: label_skew` and `rule: quantity_skew`, and only with them")
        return self


class AttendanceSection(Section):
    """Clients that were drawn and do not report back; they contribute nothing."""

    dropout: Annotated[float, Field(ge=0, lt=1, description="Chance of a client to drop out of a round.")] = 0.0
    straggler: Annotated[float, Field(ge=0, lt=1, description="Chance of one left to report too late.")] = 0.0


class DistributedSection(Section):
    """How clients encode their updates and share the noise; the secure aggregation of the sums is simulated."""

    dimension: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 24,
            description="Numbers of an update: a power of two, at least the model's trainable weights.",
        ),
    ]
    min_clients: Annotated[
        int | None,
        Field(
            ge=1,
            description="A share of the noise is made for this number of reporting clients; a round with fewer "
            "releases nothing. Default: all clients of a round.",
        ),
    ] = None
    bits: Annotated[int, Field(ge=6, le=32, description="Of each number sent; sums are modulo 2^bits.")] = 16

    @model_validator(mode="after")
    def _power_of_two(self) -> DistributedSection:
        if self.dimension & (self.dimension - 1):
            raise ValueError(f"`dimension` must be a power of two: {1 << self.dimension.bit_length()}")
        return self


def check_distributed(
    *, mechanism: str, distributed: DistributedSection | None, sampling: str, adaptive: bool, absent: bool
) -> None:
    """Refuse a privacy block whose mechanism, `distributed` block and sampling of clients do not go together.

    Args:
        mechanism: of the noise.
        distributed: the block, if there is one.
        sampling: how clients are drawn.
        adaptive: whether the clipping norm adapts.
        absent: whether some drawn clients do not report.

    Raises:
        ValueError: they do not; one line.
    """
    listed = protections()
    if (distributed is not None) != listed[mechanism].integers:
        theirs = " and ".join(f"`mechanism: {name}`" for name, one in listed.items() if one.integers)
        raise ValueError(f"`distributed` goes with {theirs}, always")
    if distributed is None:
        return
    if sampling not in listed[mechanism].sampling:
        raise ValueError(
            f"`mechanism: {mechanism}` has no bound for `sampling: {sampling}`, whose rounds have no fixed number of "
            f"noise shares: use {either([f'`{name}`' for name in listed[mechanism].sampling])}"
        )
    if adaptive:
        raise ValueError(f"`adaptive` releases a count that the noise of `mechanism: {mechanism}` does not cover")
    if absent and distributed.min_clients is None:
        raise ValueError(
            "some clients do not report, and a round without all of them releases nothing: give "
            "`distributed: {min_clients: ...}`"
        )


class FederatedPrivacySection(Section):
    """User-level differential privacy. Give either `target_epsilon` or `noise_multiplier`."""

    target_epsilon: Annotated[
        PositiveFloat | None, Field(description="Epsilon of the whole training, to which the noise is calibrated.")
    ] = None
    noise_multiplier: Annotated[
        NoiseMultiplier | None, Field(description="Standard deviation of the noise of the sum over the clipping norm.")
    ] = None
    delta: Delta
    mechanism: Annotated[
        str,
        ProtectionName,
        Field(
            description="Noise of each round; `tree` is DP-FTRL, which needs `sampling: cyclic`; `skellam` and "
            "`discrete_gaussian` are added by the clients and need `distributed`."
        ),
    ] = "gaussian"
    clipping_norm: Annotated[
        ClippingNorm, Field(description="L2 bound of a client's update over all weights; with `adaptive` the first.")
    ] = 0.5
    hardened: Annotated[bool, Field(description="Noise that resists floating-point attacks.")] = False
    adaptive: AdaptiveSection | None = None
    distributed: DistributedSection | None = None
    audit: Annotated[
        Literal["none", "mechanism"],
        Field(description="`mechanism`: test the aggregation with made-up canaries before any data is read."),
    ] = "mechanism"

    @model_validator(mode="after")
    def _fits(self) -> FederatedPrivacySection:
        require_one_target(self.target_epsilon, self.noise_multiplier)
        listed = protections()[self.mechanism]
        if self.adaptive is not None and not listed.adaptive and not listed.integers:
            raise ValueError(f"`adaptive` changes the norm that `mechanism: {self.mechanism}` spreads its noise over")
        if self.hardened and listed.integers:
            raise ValueError(f"`hardened` does nothing in `mechanism: {self.mechanism}`, whose noise is whole numbers")
        return self


class SiloMechanism(Section):
    """DP-SGD inside each silo: records are protected from the server and from the other silos. Give either
    `target_epsilon` or `noise_multiplier`.
    """

    silos: Annotated[
        dict[str, Annotated[int, Field(ge=1)]],
        Field(
            min_length=1,
            description="Name of each silo and its number of privacy units in the train split, which are public. "
            "Registering the dataset counts them and prints what to write here.",
        ),
    ]
    target_epsilon: Annotated[
        PositiveFloat | None, Field(description="Epsilon of the whole training, to which the noise is calibrated.")
    ] = None
    noise_multiplier: Annotated[
        NoiseMultiplier | None, Field(description="Standard deviation of each silo's noise over the clipping norm.")
    ] = None
    delta: Delta
    clipping_norm: Annotated[ClippingNorm, Field(description="L2 bound of one unit's gradient.")]
    local_steps: Annotated[
        int | None,
        Field(ge=1, description="Steps of each silo in a round; default: as many as draw each unit once, expected."),
    ] = None
    hardened: Annotated[bool, Field(description="Noise that resists floating-point attacks.")] = False
    audit: Annotated[
        Literal["none", "mechanism"],
        Field(description="`mechanism`: test clipping and noise with made-up canaries before any data is read."),
    ] = "mechanism"

    @model_validator(mode="after")
    def _one_target(self) -> SiloMechanism:
        require_one_target(self.target_epsilon, self.noise_multiplier)
        return self


class SiloPrivacySection(SiloMechanism):
    """DP-SGD inside each silo; `training.batch_size` units of a step over all silos, `training.epochs` of each unit."""

    column: Annotated[str, Field(min_length=1, description="Column whose value names a row's silo.")]


def not_of_silos(algorithm: FederatedAlgorithm) -> str | None:
    """Return why an algorithm cannot run with DP-SGD inside the silos; None where it can."""
    if not algorithm.rules.in_silos:
        able = either([f"`{name}`" for name, rules in algorithms().items() if rules.in_silos])
        return f"`silo_privacy` makes the local steps of {able}, not of `{algorithm.name}`"
    if algorithm.engine != "fast":
        return "`silo_privacy` trains with the DP-SGD engine; drop `engine: tff`"
    fields = type(algorithm).model_fields
    for name in ("batch_size", "local_epochs", "weighting"):
        if getattr(algorithm, name) != fields[name].default:
            return f"`{name}` does nothing in `silo_privacy`, which draws samples in `local_steps`; drop it"
    return None


class FederatedSection(Section):
    """Federated training: `training.batch_size` clients a round, `training.epochs` expected rounds of each client."""

    algorithm: FederatedAlgorithm = FederatedAlgorithm()
    clients: Annotated[
        SyntheticClientsSection | None,
        Field(description="Made-up clients, for `privacy_unit: row`; else `dataset.privacy_unit` names the client."),
    ] = None
    sampling: Annotated[
        Literal["poisson", "shuffled", "cyclic"] | None,
        Field(
            description="How the clients of a round are drawn: independently; each once an epoch; or that in the same "
            "order in each epoch. Default: `poisson` with `privacy` (`cyclic` for `tree`, `shuffled` for `skellam` and "
            "`discrete_gaussian`), else `shuffled`."
        ),
    ] = None
    attendance: AttendanceSection = AttendanceSection()
    privacy: Annotated[
        FederatedPrivacySection | None, Field(description="User-level privacy. Without either the run claims nothing.")
    ] = None
    silo_privacy: Annotated[
        SiloPrivacySection | None, Field(description="Privacy of records inside few silos, which are the clients.")
    ] = None

    @property
    def scheme(self) -> str:
        """How clients are drawn, default filled in."""
        if self.sampling is not None:
            return self.sampling
        if self.privacy is None:
            return "shuffled"
        return protections()[self.privacy.mechanism].sampling[0]

    @model_validator(mode="after")
    def _silos_fit(self) -> FederatedSection:
        if self.silo_privacy is None:
            return self
        if self.privacy is not None:
            raise ValueError("`privacy` protects clients and `silo_privacy` the records of each; give one of the two")
        if self.clients is not None:
            raise ValueError("the silos are the clients of `silo_privacy`, by its `column`; drop `clients`")
        if self.sampling is not None or self.attendance != AttendanceSection():
            raise ValueError("every silo takes part in every round of `silo_privacy`; drop `sampling`, `attendance`")
        reason = not_of_silos(self.algorithm)
        if reason is not None:
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _private_parts_fit(self) -> FederatedSection:
        if self.privacy is None:
            return self
        if self.clients is not None:
            raise ValueError(
                "`privacy` protects clients, and made-up ones are nobody: drop `clients` and name the client's column "
                "in `dataset.privacy_unit: {key: COLUMN}`, or drop `privacy`"
            )
        if not self.algorithm.rules.one_update:
            raise ValueError(
                f"`{self.algorithm.name}` sends a second sum from each client, which `privacy` does not noise; fedavg"
            )
        if self.algorithm.engine != "fast":
            raise ValueError("`privacy` needs `engine: fast`, whose sampling and noise are those that are accounted")
        mechanism = self.privacy.mechanism
        allowed = protections()[mechanism]
        if self.scheme not in allowed.sampling and not allowed.integers:
            only = either([f"`sampling: {name}`" for name in allowed.sampling])
            raise ValueError(f"`mechanism: {mechanism}` has a bound for {only} only")
        check_distributed(
            mechanism=mechanism,
            distributed=self.privacy.distributed,
            sampling=self.scheme,
            adaptive=self.privacy.adaptive is not None,
            absent=self.attendance.dropout > 0 or self.attendance.straggler > 0,
        )
        return self
