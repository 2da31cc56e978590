import sys
from pathlib import Path

# On the path, so that worker processes can import the toy family as well.
sys.path.insert(0, str(Path(__file__).parent))
