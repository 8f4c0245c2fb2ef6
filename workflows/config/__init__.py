"""Job files and the settings of each of their blocks: strict YAML in, one checked model out."""
