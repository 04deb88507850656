"""What theory predicts of a deep network at initialization: mean-field theory by Gauss–Hermite quadrature."""
