"""Fuzzers of everything that reads a file or a message which somebody else wrote.

python -m tests.fuzz NAME --seed SEED --inputs N        all inputs of a seed
python -m tests.fuzz NAME --seed SEED --only NUMBER     one of them again
"""
