/* The installed header, which pkg-config says where to find. */
#include <mlxrt.h>
