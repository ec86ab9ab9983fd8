# SPDX-License-Identifier: Apache-2.0
"""Discrete diffusion of label maps: noising, the exact posterior, and sampling by either."""

from __future__ import annotations

import torch
from monai.networks import one_hot
from monai.networks.schedulers import Scheduler
from monai.utils import StrEnum, look_up_option

__all__ = ["CategoricalScheduler"]


class CategoricalKernel(StrEnum):
    """What a label becomes when it is not kept."""

    UNIFORM = "uniform"
    ABSORBING = "absorbing"


class CategoricalSampler(StrEnum):
    """How a step goes to the previous level."""

    RE_NOISE = "re_noise"
    POSTERIOR = "posterior"


class CategoricalScheduler(Scheduler):
    """Diffusion of label maps, each voxel on its own, as in DDPS (arXiv 2306.01721).

    With ``abar_t`` the probability that a label survives up to level t, K classes and ``alpha = abar_t / abar_s``
    for two levels s < t:

    - Kernel ``"uniform"`` (published): a label that is not kept is drawn anew from all K classes, its own included.
      ``q(x_t = k | x_0) = abar_t [k = x_0] + (1 - abar_t) / K``, and the posterior ``q(x_s = k | x_t, x_0)`` is
      ``(alpha [k = x_t] + (1 - alpha) / K) (abar_s [k = x_0] + (1 - abar_s) / K) / q(x_t | x_0)``.
    - Kernel ``"absorbing"``: a label that is not kept becomes the mask token, state K, and stays so.
      ``q(x_t = x_0 | x_0) = abar_t`` and ``q(x_t = K | x_0) = 1 - abar_t``. Posterior: a visible label was visible
      before, ``q(x_s = x_t | x_t, x_0) = 1``; a token comes from the label with
      ``q(x_s = x_0 | x_t = K, x_0) = (abar_s - abar_t) / (1 - abar_t)``, else it was a token already.

    For a soft prediction p of the clean labels the posterior is the mixture ``sum_c p_c q(x_s | x_t, x_0 = c)``.
    Under the absorbing kernel a visible label excludes every other class; it is kept whatever p says.

    Timestep t is the noise level, 0 (almost clean) to T - 1 (pure noise). With the schedules of DDPS, abar of the last
    level is about 1e-5, so that all but 1e-5 of the voxels are noise there; sampling starts from :meth:`pure_noise`.
    Apart from :meth:`set_timesteps` no method changes the object, so that threads may share it.

    Args:
        num_classes: K, at least 2, background included.
        num_train_timesteps: T, the number of noise levels.
        schedule: name of a member of MONAI's ``NoiseSchedules`` whose alpha-bar is the keep probability:
            ``"ddps_linear"`` (published default), ``"ddps_cosine"``, or another.
        kernel: ``"uniform"`` or ``"absorbing"``.
        sampler: what :meth:`step` does. ``"re_noise"`` (published) noises the predicted labels afresh;
            ``"posterior"`` draws from the posterior of the predicted probabilities.
        schedule_args: further arguments of the schedule.

    Raises:
        ValueError: K below 2, an unknown option, or a schedule whose alpha-bar does not fall at every step.

    Example:
        >>> scheduler = CategoricalScheduler(num_classes=3, num_train_timesteps=20)
        >>> scheduler.set_timesteps(3)
        >>> scheduler.timesteps.tolist()
        [19, 10, 0]
        >>> labels = torch.tensor([[[[0, 1, 2]]]])
        >>> noise = torch.tensor([[[[0.2, 0.6, 0.6]], [[0.9, 0.9, 0.1]]]])
        >>> scheduler.add_noise(labels, noise, torch.tensor([10])).tolist()
        [[[[0, 2, 0]]]]
    """

    def __init__(
        self,
        num_classes: int,
        num_train_timesteps: int = 20,
        schedule: str = "ddps_linear",
        kernel: str = CategoricalKernel.UNIFORM,
        sampler: str = CategoricalSampler.RE_NOISE,
        **schedule_args: float,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, found {num_classes}.")
        self.kernel = look_up_option(kernel, CategoricalKernel)
        self.sampler = look_up_option(sampler, CategoricalSampler)
        self.num_classes = num_classes
        self.num_states = num_classes + (self.kernel == CategoricalKernel.ABSORBING)
        for name in ("betas", "alphas", "alphas_cumprod"):
            table = getattr(self, name).double()
            delattr(self, name)
            self.register_buffer(name, table, persistent=False)
        keep = self.alphas_cumprod
        if not ((keep.diff(prepend=keep.new_ones(1)) < 0).all() and keep[-1] >= 0):
            raise ValueError(
                f"schedule={schedule!r} must give alphas_cumprod in [0, 1) that fall at every step, found {keep}."
            )
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the steps to visit: evenly spaced from T - 1 to 0, both included; one step is T - 1.

        Args:
            num_inference_steps: number of kept steps, 1 to T.
            device: unused: the steps stay on the CPU, where reading them costs no synchronisation.

        Raises:
            ValueError: ``num_inference_steps`` outside 1..T.
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise ValueError(f"num_inference_steps must lie in 1..{total}, found {num_inference_steps}.")
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.linspace(total - 1, 0, num_inference_steps, dtype=torch.float64).round().long()

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Draw from ``q(x_t | x_0)``; no tensor with a channel per class is made.

        Args:
            original_samples: labels ``[B, 1, *spatial]``, integers in 0..num_states-1.
            noise: uniform in [0, 1), float32 or float64 ``[B, 2, *spatial]``. A label is kept where channel 0 is below
                ``abar_t``; channel 1 draws the label ``floor(u K)`` that replaces it.
            timesteps: integers in 0..T-1, ``[B]`` or ``[1]``.

        Returns:
            Noisy labels, int64 ``[B, 1, *spatial]``.

        Raises:
            ValueError: a shape, type or value that does not fit the above.
        """
        _check_labels("original_samples", original_samples, self.num_states)
        _check_noise(noise, original_samples)
        if timesteps.shape not in ((1,), original_samples.shape[:1]):
            raise ValueError(f"timesteps must have shape [1] or [{len(noise)}], found {list(timesteps.shape)}.")
        _check_integers("timesteps", timesteps, self.num_train_timesteps)
        table = self.alphas_cumprod.to(noise.dtype).to(noise.device)
        keep = table[timesteps.long().to(noise.device)].reshape(-1, *[1] * (noise.ndim - 1))
        return torch.where(noise[:, :1] < keep, original_samples, self._replacement(noise))

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Raise NotImplementedError: labels have no velocity."""
        raise NotImplementedError("CategoricalScheduler diffuses labels, which have no velocity.")

    def pure_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the start of sampling: uniform labels from channel 1 of ``noise``, or mask tokens.

        Args:
            noise: as for :meth:`add_noise`, ``[B, 2, *spatial]``.

        Returns:
            Labels, int64 ``[B, 1, *spatial]``.

        Raises:
            ValueError: a shape, type or value that does not fit.
        """
        _check_noise(noise)
        return self._replacement(noise)

    def posterior(
        self, prediction: torch.Tensor, timestep: int, previous_timestep: int | None, sample: torch.Tensor
    ) -> torch.Tensor:
        """Compute ``q(x_s | x_t, x_0)`` for any s < t; see the class for the formulas.

        Args:
            prediction: the clean labels, integers in 0..K-1 ``[B, 1, *spatial]``, or probabilities of them,
                ``[B, K, *spatial]``.
            timestep: t.
            previous_timestep: s. None or -1: the clean labels (``abar_s = 1``).
            sample: labels at level t, integers in 0..num_states-1 ``[B, 1, *spatial]``.

        Returns:
            Probabilities, float32 ``[B, num_states, *spatial]``.

        Raises:
            ValueError: not -1 <= s < t < T, or a shape, type or value that does not fit the above.
        """
        s, t = -1 if previous_timestep is None else int(previous_timestep), int(timestep)
        if not -1 <= s < t < self.num_train_timesteps:
            raise ValueError(f"posterior needs -1 <= s < t <= {self.num_train_timesteps - 1}, found s={s} and t={t}.")
        _check_labels("sample", sample, self.num_states)
        if prediction.is_floating_point():
            _check_shape("prediction", prediction, self.num_classes, sample)
            if not (prediction.amin() >= 0 and (prediction.sum(1, dtype=torch.float32) - 1).abs().amax() < 1e-2):
                raise ValueError(
                    "prediction must hold probabilities that sum to 1 over the channels, found values from "
                    f"{float(prediction.amin()):.4g} to {float(prediction.amax()):.4g}."
                )
            probabilities = prediction.float()
        else:
            _check_shape("prediction", prediction, 1, sample)
            _check_labels("prediction", prediction, self.num_classes)
            probabilities = one_hot(prediction, self.num_classes)
        return self._posterior(probabilities, self._keep(t), self._keep(s), sample)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go from ``timestep`` to the previous kept one; after the last, to the predicted labels.

        Args:
            model_output: logits of the clean labels, ``[B, K, *spatial]``.
            timestep: a member of :attr:`timesteps`.
            sample: labels at ``timestep``, ``[B, 1, *spatial]``. Re-noising uses its shape only.
            noise: as for :meth:`add_noise`; the posterior uses channel 1 only. Default: drawn from ``generator``.
            generator: source of the noise when none is given.

        Returns:
            The labels at the previous kept step and the predicted labels (the argmax of the logits), both int64
            ``[B, 1, *spatial]``.

        Raises:
            ValueError: ``timestep`` is not one of the kept steps, or a shape, type or value does not fit the above.
        """
        kept = self.timesteps.tolist()
        if int(timestep) not in kept:
            raise ValueError(f"timestep {int(timestep)} is not one of the kept steps {kept}; see set_timesteps.")
        _check_shape("sample", sample, 1)
        _check_shape("model_output", model_output, self.num_classes, sample)
        labels = model_output.argmax(1, keepdim=True)
        position = kept.index(int(timestep)) + 1
        if position == len(kept):
            return labels, labels
        if noise is None:
            noise = torch.rand((len(sample), 2, *sample.shape[2:]), generator=generator, device=sample.device)
        else:
            _check_noise(noise, sample)
        previous = self._keep(kept[position])
        if self.sampler == CategoricalSampler.RE_NOISE:
            return torch.where(noise[:, :1] < previous, labels, self._replacement(noise)), labels
        _check_labels("sample", sample, self.num_states)
        probabilities = model_output.softmax(1, dtype=torch.float32)
        bounds = self._posterior(probabilities, self._keep(int(timestep)), previous, sample).cumsum(1)
        return (noise[:, 1:] >= bounds[:, :-1]).sum(1, keepdim=True), labels

    def _keep(self, timestep: int) -> float:
        """Return alpha-bar at a level, 1 at level -1."""
        return 1.0 if timestep == -1 else float(self.alphas_cumprod[timestep])

    def _replacement(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the state of each voxel that is not kept."""
        if self.kernel == CategoricalKernel.ABSORBING:
            return torch.full_like(noise[:, 1:], self.num_classes, dtype=torch.long)
        return (noise[:, 1:] * self.num_classes).long()

    def _posterior(self, probabilities: torch.Tensor, now: float, before: float, sample: torch.Tensor) -> torch.Tensor:
        """Return the mixture of posteriors; ``now`` and ``before`` are alpha-bar at t and s."""
        state = one_hot(sample, self.num_states)
        if self.kernel == CategoricalKernel.ABSORBING:
            token, revealed = state[:, -1:], (before - now) / (1 - now)
            return torch.cat([state[:, :-1] + revealed * token * probabilities, (1 - revealed) * token], dim=1)
        alpha, classes = now / before, self.num_classes
        # p_c / q(x_t | c): the sum over c then needs no tensor with two class axes.
        weights = probabilities / (now * state + (1 - now) / classes)
        spread = (1 - before) / classes * weights.sum(1, keepdim=True)
        return (alpha * state + (1 - alpha) / classes) * (before * weights + spread)


def _check_shape(name: str, tensor: torch.Tensor, channels: int, labels: torch.Tensor | None = None) -> None:
    """Require a batch that is not empty, has the given channels and, if given, fits the label maps."""
    fits = tensor.ndim >= 3 and tensor.shape[1] == channels and tensor.numel() > 0
    expected = f"[B, {channels}, *spatial] and not be empty"
    if labels is not None:
        shape = [len(labels), channels, *labels.shape[2:]]
        fits, expected = list(tensor.shape) == shape, str(shape)
    if not fits:
        raise ValueError(f"{name} must have shape {expected}, found {list(tensor.shape)}.")


def _check_integers(name: str, tensor: torch.Tensor, count: int) -> None:
    """Require integers in 0..count-1."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, found {tensor.dtype}.")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= count:
        raise ValueError(f"{name} must lie in 0..{count - 1}, found values from {low} to {high}.")


def _check_labels(name: str, labels: torch.Tensor, states: int) -> None:
    """Require a label map ``[B, 1, *spatial]`` of the given number of states."""
    _check_shape(name, labels, 1)
    _check_integers(name, labels, states)


def _check_noise(noise: torch.Tensor, labels: torch.Tensor | None = None) -> None:
    """Require uniform noise in two channels, which fits the label maps if given."""
    _check_shape("noise", noise, 2, labels)
    # NaN fails too.
    if noise.dtype not in (torch.float32, torch.float64) or not (noise.min() >= 0 and noise.max() < 1):
        raise ValueError(
            f"noise must be float32 or float64 and uniform in [0, 1), found {noise.dtype} from "
            f"{float(noise.min()):.4g} to {float(noise.max()):.4g}."
        )
