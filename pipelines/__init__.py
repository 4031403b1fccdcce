"""When and with what the assets run: definitions, jobs, schedules, sensors."""
