/*-------------------------------------------------------------------------
 *
 * base_backup.h
 *	  Refusal of base backups.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OGEL_BASE_BACKUP_H
#define OGEL_BASE_BACKUP_H

extern void base_backup_install(void);
extern void base_backup_refuse(void);

#endif							/* OGEL_BASE_BACKUP_H */
