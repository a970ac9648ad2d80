"""One file for each SDK: the same few lines that a user would write.

class Adapter:
    def __init__(self, case, folder): ...      nothing is imported yet; folder is also HOME and cwd
    def load(self): ...                        the import
    def open(self): ...                        begin a run; returns log(title, series, value, iteration)
    def close(self): ...                       returns when the SDK says that all is kept
    def count(self): ...                       in another process: scalars found in the store, or None
"""
