from pathlib import Path
from trilens.text.vocabulary import Vocabulary
def read_directory_vocabulary(directory: Path) -> Vocabulary: raise NotImplementedError
