// Included before every source of the stress test: where threads are held up for long.

#ifndef LIVE_STRESS_H
#define LIVE_STRESS_H

void hold_up(void);
#define POOL_PAUSE() hold_up()

#endif
