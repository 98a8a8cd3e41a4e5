"""DpStatistics: noisy ranges and vocabularies where the schema has none, charged to the train split's units."""
