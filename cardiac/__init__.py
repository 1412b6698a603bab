"""Hearts in MRI, without Flower: read, train, evaluate, predict, measure and draw."""
