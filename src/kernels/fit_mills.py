"""Fit the polynomials of activation.tpl.h: Mills' ratio of the normal distribution, at Chebyshev nodes.

``python src/kernels/fit_mills.py`` (needs mpmath) prints a, the largest relative error and the coefficients
for float32 and float64.
"""

import mpmath as mp

mp.mp.dps = 60
B = mp.mpf("0.8")  # makes the product at 0 what it is in the limit, 0.4: a polynomial without cancellation


def mills(u):
    """The normal distribution's tail beyond u, over exp(-u^2 / 2)."""
    return mp.erfc(u / mp.sqrt(2)) * mp.exp(u * u / 2) / 2


def fit(a, largest, degree):
    """Coefficients of mills(u) (u + B) in t = (u - a) / (u + a) for 0 <= u <= largest, and their error."""

    def target(t):
        u = a * (1 + t) / (1 - t)
        return mills(u) * (u + B)

    low, high, count = mp.mpf(-1), (largest - a) / (largest + a), degree + 1
    nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    nodes = [(low + high) / 2 + (high - low) / 2 * node for node in nodes]
    matrix = mp.matrix(count, count)
    for i, node in enumerate(nodes):
        for j in range(count):
            matrix[i, j] = node**j
    coefficients = mp.lu_solve(matrix, mp.matrix([target(node) for node in nodes]))
    points = [low + (high - low) * mp.mpf(i) / 400 for i in range(400)]
    error = max(abs(mp.polyval(list(coefficients)[::-1], t) / target(t) - 1) for t in points)
    return coefficients, error


def main():
    """Print the polynomials."""
    for name, a, largest, degree in (("float32", "4", "14.5", 10), ("float64", "4.5", "39", 23)):
        coefficients, error = fit(mp.mpf(a), mp.mpf(largest), degree)
        print(f"{name}: a = {a}, error 2^{float(mp.log(error, 2)):.1f}")
        print(", ".join(float(c).hex() for c in coefficients))


if __name__ == "__main__":
    main()
