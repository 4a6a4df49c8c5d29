/**
 * CTEs that delete the jobs of `doomed (id)`, which are locked, and all that belongs to them. The arrays keep the planner from
 * joining, and so from reading tables from end to end.
 */
export const withChildren = `
    attempt AS (
      DELETE FROM runledger.job_attempts a WHERE a.job_id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING 1
    ), event AS (
      DELETE FROM runledger.job_events e WHERE e.job_id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING 1
    ), log AS (
      DELETE FROM runledger.job_logs l WHERE l.job_id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING 1
    ), letter AS (
      DELETE FROM runledger.job_dead_letters d WHERE d.job_id = ANY (ARRAY(SELECT id FROM doomed))
    ), lineage AS (
      DELETE FROM runledger.job_replays r
      WHERE r.replay_job_id = ANY (ARRAY(
        SELECT id FROM doomed
        UNION ALL
        SELECT s.replay_job_id FROM runledger.job_replays s WHERE s.source_job_id = ANY (ARRAY(SELECT id FROM doomed))
      ))
    ), intent AS (
      DELETE FROM runledger.job_enqueue_intents n WHERE n.promoted_job_id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING 1
    ), job AS (
      DELETE FROM runledger.job_queue q WHERE q.id = ANY (ARRAY(SELECT id FROM doomed)) RETURNING 1
    )`

/** What {@link withChildren} has deleted. */
export const childCounts = `
      (SELECT count(*)::int4 FROM job) AS jobs,
      (SELECT count(*)::int4 FROM attempt) AS attempts,
      (SELECT count(*)::int4 FROM event) AS events,
      (SELECT count(*)::int4 FROM log) AS logs,
      (SELECT count(*)::int4 FROM intent) AS intents`
