-- Who may take it was decided before, in the same transaction.
INSERT INTO lease (run, epoch, holder, pid, host, boot_id, pid_namespace, process_started, expires_at, expires_uptime_ms, released)
VALUES (:run, :epoch, :holder, :pid, :host, :boot_id, :pid_namespace, :process_started, :expires_at, :expires_uptime_ms, 0)
ON CONFLICT (run) DO UPDATE SET
    epoch = excluded.epoch,
    holder = excluded.holder,
    pid = excluded.pid,
    host = excluded.host,
    boot_id = excluded.boot_id,
    pid_namespace = excluded.pid_namespace,
    process_started = excluded.process_started,
    expires_at = excluded.expires_at,
    expires_uptime_ms = excluded.expires_uptime_ms,
    released = 0
