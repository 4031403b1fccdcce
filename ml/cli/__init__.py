"""The command line: `stems VERB`."""
