-- The statements that the payments service runs most often.

-- name: backlog
-- Measure the backlog of payments. `waiting`: the number of payments that are neither captured nor over, up to :limit.
-- `oldest_age`: the age of the oldest of them in seconds. Payments older than :excluded_age seconds do not count. `done`:
-- the number of payments that were captured or ended within the last :window seconds.
SELECT count(*) AS waiting,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_age,
    (
        SELECT count(*) FROM payment
        WHERE status IN ('captured', 'failed', 'canceled', 'refunded')
            AND updated_at > now() - make_interval(secs => :window::double precision)
    ) AS done
FROM (
    SELECT created_at FROM payment
    WHERE status IN ('created', 'submitting', 'submitted')
        AND created_at > now() - make_interval(secs => :excluded_age::double precision)
    LIMIT :limit
) AS open;
