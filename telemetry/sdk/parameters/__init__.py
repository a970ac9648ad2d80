"""The program's values in the record: parameters, configuration, properties, connected objects."""
