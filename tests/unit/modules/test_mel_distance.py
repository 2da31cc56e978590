import torch

from ttstrain.modules.mel_distance import mel_distance


def by_the_book(a: torch.Tensor, b: torch.Tensor) -> float:
    """The textbook recursion, cell by cell."""
    n, m = len(a), len(b)
    table = torch.full((n + 1, m + 1), torch.inf, dtype=torch.float64)
    table[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost = (a[i - 1].double() - b[j - 1].double()).abs().mean()
            steps = table[i - 1, j] + cost, table[i, j - 1] + cost, table[i - 1, j - 1] + 2 * cost
            table[i, j] = torch.stack(steps).min()
    return float(table[n, m] / (n + m))


def test_equals_the_textbook_recursion():
    generator = torch.Generator().manual_seed(0)
    for n, m in [(1, 1), (1, 5), (6, 1), (7, 9), (12, 5)]:
        a = torch.randn(n, 4, generator=generator)
        b = torch.randn(m, 4, generator=generator)
        assert abs(mel_distance(a, b) - by_the_book(a, b)) < 1e-12


def test_a_clip_spoken_slower_is_the_same_clip():
    mel = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    assert mel_distance(mel, mel.repeat_interleave(3, dim=0)) < 1e-12


def test_a_constant_offset_is_its_own_distance():
    mel = torch.zeros(10, 8)
    assert abs(mel_distance(mel, mel + 0.5) - 0.5) < 1e-12
