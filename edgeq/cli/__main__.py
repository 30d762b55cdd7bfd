"""python -m edgeq.cli"""
from edgeq.cli import main

if __name__ == "__main__":
    main()
